import re

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pocketvit.core.errors import RunError
from pocketvit.core.rundir import RunDirectory
from pocketvit.reporting import write_report

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
RESULT_FILES = (
    "data.json",
    "model.json",
    "training.json",
    "evaluation.json",
    "export.json",
    "benchmark.json",
)


@pytest.fixture
def render(make_run, parse):
    """The parsed report of these results."""
    return lambda content: parse(write_report(make_run(content)).read_text(encoding="utf-8"))


def test_the_headline_numbers_are_there(render, make_results):
    text = render(make_results()).text
    for words in (
        "mobilevitv2_050: tells 10 classes apart",
        "92.5%",
        "95% interval 89.5% to 94.7%",
        "n = 400 validation images",
        "3.24 ms",
        "on 1 thread of Example CPU @ 2.10GHz",
        "✓ Verified",
        "On 256 images the file gave the same answer as the trained network 100% of the time.",
        "4.48 MB",
        "1.11 M",
        "38.2 M MACs",
        "1.8× slower than MobileNetV3-Large at the same input size, on 1 thread of this CPU",
        "pocketvit build flowers --macs 100M",
        "3f9a" * 16,
        "stratified 80/20, seed 0",
        "Nothing was skipped: all 2,000 images could be read",
    ):
        assert words in text, words


def test_sections_come_in_the_order_of_interest(render, make_results):
    page = render(make_results())
    assert [attrs["id"] for tag, attrs in page.tags if tag == "section"] == [
        "first",
        "training",
        "classes",
        "mistakes",
        "speed",
        "choice",
        "use",
        "made",
    ]
    links = {attrs["href"] for tag, attrs in page.tags if tag == "a"}
    assert links == {f"#{attrs['id']}" for tag, attrs in page.tags if tag == "section"}


def test_every_term_is_explained(render, make_results):
    text = render(make_results()).text
    for term, words in {
        "top-1": "the first answer is right",
        "MACs": "one multiplication and one addition each",
        "p50": "half the runs are faster",
        "p90": "nine of ten are faster",
        "EMA": "exponential moving average",
        "epoch": "all training images once per epoch",
        "Recall": "the share the model found",
        "Precision": "how often that is right",
        "SHA-256": "its checksum",
    }.items():
        assert words in text, term


def test_nothing_is_loaded_and_nothing_is_run(make_run, make_results, parse):
    html = write_report(make_run(make_results())).read_text(encoding="utf-8")
    page = parse(html)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base"}
    for _, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs)
        assert (attrs.get("src") or "data:").startswith("data:")
        assert (attrs.get("href") or "#").startswith("#")
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_hostile_names_stay_text(render, make_results):
    content = make_results((HOSTILE, "b", "c", "d", "e", "f"))
    content["data.json"]["problems"] = [{"key": HOSTILE, "problem": "`" + HOSTILE + "`"}]
    content["data.json"]["name"] = content["run.json"]["command"] = HOSTILE
    content["model.json"].update(name=HOSTILE, reason=HOSTILE)
    content["evaluation.json"]["mistakes"][0].update(key=HOSTILE, image='data:image/png;base64,"><script>')
    content["training.json"]["pretrained"]["message"] = f"`{HOSTILE}`"
    page = render(content)
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [attrs for _, attrs in page.tags if "onerror" in attrs]
    assert "<script>alert(1)</script>" in page.text


@pytest.mark.parametrize("gone", RESULT_FILES)
def test_renders_without_any_one_stage(render, make_results, gone):
    assert "Not run yet" in render(make_results() | {gone: None}).text


def test_renders_when_only_the_settings_exist(render, make_results):
    page = render({"run.json": make_results()["run.json"]})
    assert page.text.count("Not run yet") >= 6
    assert "not measured yet" in page.text


def test_renders_while_training_goes_on(render, make_results):
    content = make_results() | dict.fromkeys(RESULT_FILES[2:])
    content["run.json"]["stages"] = {"train": {"key": "k", "started": "2026-01-02T10:00:00+00:00"}}
    text = render(content).text
    assert "Training has not finished; these are the epochs so far." in text


@pytest.mark.parametrize("classes", [1, 2, 20, 21, 300])
def test_any_number_of_classes(render, make_results, classes):
    page = render(make_results(tuple(f"class {i}" for i in range(classes)), wrong=min(3, classes - 1)))
    matrix = any(attrs.get("class", "").startswith("matrix") for tag, attrs in page.tags if tag == "table")
    assert matrix == (classes <= 20)
    if classes > 20:
        assert "these are its largest errors" in page.text


def test_no_mistakes(render, make_results):
    text = render(make_results(wrong=0)).text
    assert "It made no mistake on these 400 validation images." in text
    assert "No class was mistaken for another." in text


def test_top_5_only_where_it_was_measured(render, make_results):
    assert "top-5" not in render(make_results(("cat", "dog"))).text
    assert "top-5" in render(make_results()).text


def test_an_unverified_file_is_shown_as_such(render, make_results):
    content = make_results()
    content["export.json"]["verification"].update(passed=False, top1_agreement=0.5)
    text = render(content).text
    assert "✗ Not verified" in text
    assert "✓ Verified" not in text
    assert "Do not deploy this file." in text


def test_no_value_shows_as_nan_or_none(make_run, make_results):
    content = make_results(epochs=3)
    content["evaluation.json"]["per_class"][0].update(n=0, recall=None, precision=None)
    content["metrics.jsonl"][1].update(val_loss=None, val_top1=None)
    html = write_report(make_run(content)).read_text(encoding="utf-8")
    html = re.sub(r'<pre class="python">.*?</pre>', "", html, flags=re.DOTALL)  # Python may say None
    assert not re.search(r"\b(nan|NaN|None|inf|Undefined)\b", html)
    assert '<td class="n">none' not in html


def test_the_weights_licence_of_the_file_is_told(render, make_results):
    content = make_results()
    content["export.json"]["metadata"]["weights_licence"] = "as the owner of the training images says"
    assert "as the owner of the training images says" in render(content).text


def test_a_typical_report_is_small(make_run, make_results):
    assert write_report(make_run(make_results())).stat().st_size < 100_000


def test_needs_a_run(tmp_path):
    with pytest.raises(RunError):
        write_report(RunDirectory(tmp_path))


@settings(
    max_examples=15,
    deadline=None,
    phases=(Phase.reuse, Phase.generate),  # shrinking a whole report takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    names=st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=25, unique=True),
    epochs=st.integers(1, 60),
    per_class=st.integers(4, 30),
    wrong=st.integers(0, 4),
    left_out=st.sets(st.sampled_from(RESULT_FILES)),
)
def test_always_well_formed(
    tmp_path_factory, make_results, write_to, parse, names, epochs, per_class, wrong, left_out
):
    content = make_results(tuple(names), epochs=epochs, per_class=per_class, wrong=wrong)
    content |= dict.fromkeys(left_out)
    run = write_to(tmp_path_factory.mktemp("run"), content)
    page = parse(write_report(run).read_text(encoding="utf-8"))
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "link"}
