"""Formulas as they are written in books: no broadcasting, no numerics, no speed."""

import itertools
import math

import numpy as np


def textbook_fid(golden, synthetic):
    """|m - m'|² + tr(S + S' - 2 (S S')^(1/2)) with a general matrix root."""
    import numpy as np
    from scipy.linalg import sqrtm

    mean_g, mean_s = np.mean(golden, axis=0), np.mean(synthetic, axis=0)
    cov_g, cov_s = np.cov(golden, rowvar=False), np.cov(synthetic, rowvar=False)
    root = sqrtm(cov_g @ cov_s)
    return float(sum((mean_g - mean_s) ** 2) + np.trace(cov_g + cov_s - 2 * root.real))


def loop_kl(p, q):
    total = 0.0
    for a, b in zip(p, q, strict=True):
        if a > 0:
            total += a * math.log(a / b)
    return total


def loop_mauve(p_counts, q_counts, c=5.0, n_weights=25):
    """MAUVE point by point; valid where no two points of the curve share a coordinate."""
    p = [count / sum(p_counts) for count in p_counts]
    q = [count / sum(q_counts) for count in q_counts]
    points = [(1.0, 0.0), (0.0, 1.0)]
    for i in range(n_weights):
        w = 1e-6 + i * (1 - 2e-6) / (n_weights - 1)
        r = [w * a + (1 - w) * b for a, b in zip(p, q, strict=True)]
        points.append((math.exp(-c * loop_kl(q, r)), math.exp(-c * loop_kl(p, r))))
    areas = []
    for x, y in ((0, 1), (1, 0)):
        ordered = sorted(points, key=lambda point: (point[x], -point[y]))
        area = 0.0
        for left, right in itertools.pairwise(ordered):
            area += (right[x] - left[x]) * (left[y] + right[y]) / 2
        areas.append(area)
    return sum(areas) / 2


def loop_cosine_histogram(vectors, n_bins=100):
    """Every pair, one cosine at a time."""
    counts = [0] * n_bins
    for a, b in itertools.combinations([list(map(float, row)) for row in vectors], 2):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        cosine = dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))
        counts[min(n_bins - 1, int((cosine + 1) / 2 * n_bins))] += 1
    return counts


def loop_energy(golden, synthetic, golden_weight, synthetic_weight):
    """Three plain loops; no text is paired with itself."""

    def mean(left, right, v, w, is_same):
        summed = total = 0.0
        for i in range(len(left)):
            for j in range(len(right)):
                if not (is_same and i == j):
                    summed += v[i] * w[j] * math.dist(left[i], right[j])
                    total += v[i] * w[j]
        return summed / total

    v, w = golden_weight, synthetic_weight
    apart = mean(golden, synthetic, v, w, False)
    return 2 * apart - mean(synthetic, synthetic, w, w, True) - mean(golden, golden, v, v, True)


def loop_energy_error(golden, synthetic, golden_weight, synthetic_weight):
    """Jackknife over the texts of both samples, each distance worked out anew."""
    variance = 0.0
    samples = [golden, synthetic, golden_weight, synthetic_weight]
    for side in (0, 1):
        n = len(samples[side])
        without = []
        for i in range(n):
            left = list(samples)
            left[side] = np.delete(samples[side], i, axis=0)
            left[side + 2] = np.delete(samples[side + 2], i)
            without.append(loop_energy(*left))
        variance += (n - 1) / n * sum((value - np.mean(without)) ** 2 for value in without)
    return math.sqrt(variance)


def loop_bleu(hypothesis, references, n=4):
    """BLEU of one list of words against several, precision 0 counted as 0.1 of a run."""
    logs = []
    for order in range(1, min(n, len(hypothesis)) + 1):
        runs = [tuple(hypothesis[i : i + order]) for i in range(len(hypothesis) - order + 1)]
        hits = 0
        for run in set(runs):
            most = 0
            for words in references:
                found = [tuple(words[i : i + order]) for i in range(len(words) - order + 1)]
                most = max(most, found.count(run))
            hits += min(runs.count(run), most)
        logs.append(math.log((hits or 0.1) / len(runs)))
    closest = min((len(words) for words in references), key=lambda m: (abs(m - len(hypothesis)), m))
    penalty = min(1.0, math.exp(1 - closest / len(hypothesis)))
    return penalty * math.exp(sum(logs) / len(logs))
