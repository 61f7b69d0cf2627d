"""The table of embedded things: complete, pinned, and each with a way to unpack it."""

from mop.data.catalogue import EMBEDDED
from mop.data.convert import UNPACK


def test_everything_in_the_table_is_pinned_and_can_be_unpacked():
    assert set(EMBEDDED) == set(UNPACK)
    for name, item in EMBEDDED.items():
        assert item.name == name
        for distribution in item.distributions:
            assert len(bytes.fromhex(distribution.sha256)) == 32
            assert distribution.filename.startswith(distribution.name.replace("-", "_"))
            assert f"-{distribution.version}-" in distribution.filename


def test_the_revision_of_one_file_begins_with_its_hash():
    assert EMBEDDED["smollm2-135m"].revision == "0.1.2+bcc81830d10c.1"


def test_the_revision_of_several_files_depends_on_each_and_their_order():
    import dataclasses

    mpnet = EMBEDDED["mpnet"]
    swapped = dataclasses.replace(mpnet, distributions=mpnet.distributions[::-1])
    shorter = dataclasses.replace(mpnet, distributions=mpnet.distributions[:-1])
    assert len({mpnet.revision, swapped.revision, shorter.revision}) == 3
