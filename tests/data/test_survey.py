from __future__ import annotations

import hashlib

from pocketvit.data.splits import FileSplit, MemorySplit
from pocketvit.data.survey import survey


def test_facts_come_in_order_and_tell_what_each_image_is(encoded, picture):
    contents = [encoded(i, "JPEG" if i % 2 else "PNG") for i in range(150)]
    contents[70] = contents[70][:50]
    contents[3] = encoded(picture(3, (12, 9)).convert("L"), "JPEG")
    facts = survey(MemorySplit([str(i) for i in range(150)], contents, [0] * 150))
    assert [fact.digest for fact in facts] == [hashlib.sha256(content).hexdigest() for content in contents]
    assert [i for i, fact in enumerate(facts) if fact.problem] == [70]
    assert facts[70].problem.key == "70"
    assert (facts[3].size, facts[3].format, facts[3].mode) == ((12, 9), "JPEG", "L")
    assert (facts[4].size, facts[4].format, facts[4].mode) == ((40, 30), "PNG", "RGB")


def test_without_decoding_only_unreadable_files_are_problems(tmp_path, encoded):
    (tmp_path / "a.png").write_bytes(encoded(0)[:50])
    facts = survey(FileSplit(tmp_path, ["a.png", "b.png"], [0, 0]), decoding=False)
    assert [fact.problem is None for fact in facts] == [True, False]
    assert facts[0].size is None
    assert facts[1].digest == ""


def test_an_empty_split():
    assert survey(MemorySplit([], [], [])) == []
