"""Fit a tiny population with the built-in toy model, and let it answer: runs in seconds, pulls nothing.

Replace ``lm="fake", encoder="fake"`` by ``lm="smollm2-135m", encoder="minilm"`` for real models.
"""

from mop import MixtureOfPersonas, Record
from mop.config import FitConfig

GOOD = ["great fun", "a joy", "warm and good", "good laughs", "a great cast", "pure joy"]
BAD = ["so dull", "a bore", "slow and bad", "bad jokes", "a dull plot", "pure bore"]

records = [
    Record(key=f"{label}-{i}", context=f"Verdict: {label}.", response=text + "!" * (i // 6), label=label)
    for label, texts in (("fresh", GOOD * 4), ("rotten", BAD * 4))
    for i, text in enumerate(texts)
]
held_out, observed = records[::6], [r for i, r in enumerate(records) if i % 6]

model = MixtureOfPersonas(
    n_personas=2,
    lm="fake",
    encoder="fake",
    task="a film review of a few words",
    settings=FitConfig(components_per_record=16, valid_components=24),
    score_components=200,
    seed=0,
).fit(observed)

for persona in model.mixture_.personas:
    print(f"{persona.key}: {persona.description}")

report = model.score_report(held_out)
low, high = report["gain_interval"]
print(f"held-out log-likelihood: {report['mop']:.2f} nats per record", end=", ")
print(f"untrained gates {report['mop-uniform']:.2f}, gain {report['gain']:.2f} ({low:.2f} to {high:.2f})")

for response in model.sample(["Verdict: fresh.", "Verdict: rotten."], seed=1):
    print(f"{response.context} -> {response.response!r}  ({response.persona}, exemplar {response.exemplar})")
