"""What an import writes, says and refuses."""

import errno
import json
import os

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from pocketvit.backbones import create_model, get_entry
from pocketvit.backbones.importers import import_checkpoint
from pocketvit.backbones.pretrained import load_pretrained
from pocketvit.core import files
from pocketvit.core.errors import CheckpointError, StorageError, UnknownNameError


@pytest.fixture
def swiftformer(official, original):
    return official("swiftformer_xs", original("swiftformer_xs").state_dict())


@pytest.fixture
def cvnets(official, original):
    return official("mobilevitv2_050", original("mobilevitv2_050").state_dict())


@pytest.fixture(scope="module", params=["mobilevit_xxs", "mobilevitv2_037", "mobile_former_26m"])
def small(request, official, original):
    return official(request.param, original(request.param, num_classes=10).state_dict())


def test_two_files_are_written_and_say_where_they_come_from(cvnets, save, tmp_path):
    path = save(cvnets)
    report = import_checkpoint(path, out=tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "mobilevitv2_050.json",
        "mobilevitv2_050.safetensors",
    ]
    facts = json.loads((tmp_path / "out/mobilevitv2_050.json").read_text())
    assert facts["architecture"] == report.model == "mobilevitv2_050"
    assert facts["code_base"] == "apple/ml-cvnets"
    assert "not open source" in facts["weights_licence"]
    assert facts["source"] == {"file": path.name, "sha256": files.sha256_of(path), "wrapper": "model"}
    assert facts["sha256"] == files.sha256_of(report.file)
    assert facts["matched"] == report.matched == 269
    assert facts["changes"] == []
    assert facts["preprocessing"] == get_entry("mobilevitv2_050").preprocessing.to_dict()
    assert str(tmp_path) not in json.dumps(facts)
    json.dumps(report.to_dict())


def test_the_licence_travels_into_loading(cvnets, save, tmp_path):
    report = import_checkpoint(save(cvnets), out=tmp_path / "out")
    model = create_model("mobilevitv2_050", num_classes=4)
    loaded = load_pretrained(model, get_entry("mobilevitv2_050"), report.file)
    assert loaded.licence == report.licence == "Apple sample-code licence (ml-cvnets; not open source)"
    assert report.licence in loaded.message


@pytest.mark.parametrize(
    ("name", "licence"),
    [
        ("mobilevit_xxs", "not open source"),
        ("swiftformer_xs", "Apache-2.0"),
        ("cas_vit_xs", "not stated"),
        ("efficientformerv2_s0", "Snap"),
        ("mobile_former_26m", "all rights reserved"),
    ],
)
def test_each_code_base_has_its_licence(official, original, save, tmp_path, name, licence):
    report = import_checkpoint(save(official(name, original(name).state_dict())), out=tmp_path / "out")
    assert licence in report.licence


def test_published_weights_are_preferred_where_they_are_not_averaged(swiftformer, save, tmp_path):
    averaged = {key: torch.zeros_like(value) for key, value in swiftformer.items()}
    report = import_checkpoint(save(swiftformer, model_ema=averaged), out=tmp_path / "out")
    assert (report.wrapper, report.left_out) == ("model", ["model_ema"])
    with safe_open(report.file, "pt") as written:
        assert torch.equal(written.get_tensor("head.weight"), swiftformer["head.weight"])


def test_averaged_weights_are_preferred_elsewhere(original, save, tmp_path):
    state = original("cas_vit_xs").state_dict()
    zeros = {key: torch.zeros_like(value) for key, value in state.items()}
    report = import_checkpoint(save(zeros, model_ema=state), out=tmp_path / "out")
    assert (report.wrapper, report.left_out) == ("model_ema", ["model"])


def test_same_network_for_another_input_size(cvnets, save, tmp_path):
    path = save(cvnets)
    report = import_checkpoint(path, out=tmp_path / "out")
    assert report.also_fits == ["mobilevitv2_050_384"]
    report = import_checkpoint(path, out=tmp_path / "out", model="mobilevitv2_050_384")
    assert report.model == "mobilevitv2_050_384"
    facts = json.loads(report.file.with_suffix(".json").read_text())
    assert facts["preprocessing"]["size"] == 384


@pytest.mark.parametrize(("classes", "chans"), [(7, 3), (1000, 1), (10450, 4)])
def test_other_classes_and_input_channels(original, official, save, tmp_path, classes, chans):
    network = original("mobilevit_xxs", num_classes=classes, in_chans=chans)
    path = save(official("mobilevit_xxs", network.state_dict()))
    report = import_checkpoint(path, out=tmp_path / "out")
    assert (report.num_classes, report.in_chans) == (classes, chans)


def test_half_precision_stays(cvnets, save, tmp_path):
    path = save({key: value.half() if value.is_floating_point() else value for key, value in cvnets.items()})
    with safe_open(import_checkpoint(path, out=tmp_path / "out").file, "pt") as written:
        assert written.get_tensor("head.fc.weight").dtype == torch.float16


# ------------------------------------------------------------------------------------------ timm's files


@pytest.mark.parametrize("how", ["model", "arch", "config.json"])
def test_any_timm_model_when_it_is_named(save, tmp_path, randomise, how):
    state = randomise(timm.create_model("mobilenetv3_small_050")).state_dict()
    if how == "config.json":
        path = tmp_path / "model.safetensors"
        save_file(state, path)
        (tmp_path / "config.json").write_text('{"architecture": "mobilenetv3_small_050"}')
    else:
        more = {"arch": "mobilenetv3_small_050"} if how == "arch" else {}
        path = save(state, wrapper="state_dict", **more)
    asked = "mobilenetv3_small_050" if how == "model" else None
    report = import_checkpoint(path, out=tmp_path / "out", model=asked)
    assert report.model == "mobilenetv3_small_050"
    assert report.licence == get_entry("mobilenetv3_small_050").weights_licence
    assert load_pretrained(create_model(report.model), get_entry(report.model), report.file).used


def test_a_file_for_timms_own_implementation(original, save, tmp_path):
    path = save(original("swiftformer_xs").state_dict())
    report = import_checkpoint(path, out=tmp_path / "out", model="timm/swiftformer_xs")
    assert report.file == tmp_path / "out" / "timm_swiftformer_xs.safetensors"


# ---------------------------------------------------------------------------------------------- refusals


def refused(path, tmp_path, match, **options):
    with pytest.raises(CheckpointError, match=match) as error:
        import_checkpoint(path, out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    return error.value


def test_a_file_of_nothing_known_says_what_was_seen(save, tmp_path):
    path = save({"conv1.weight": torch.zeros(2), "fc.bias": torch.zeros(2)})
    error = refused(path, tmp_path, r"2 tensors: conv1\.weight, fc\.bias.*No family")
    assert "--model" in error.fix
    config = tmp_path / "config.json"
    for content in ("no JSON", "[]", '{"architecture": 5}', '{"architecture": "no such model"}'):
        config.write_text(content)
        refused(path, tmp_path, "of no code base")


def test_the_nearest_family_is_named(swiftformer, save, tmp_path):
    path = save({key: value for key, value in swiftformer.items() if not key.endswith("w_g")})
    refused(path, tmp_path, r"The nearest is SwiftFormer \(Amshaker/SwiftFormer\)")


def test_a_file_of_two_networks_is_ambiguous(swiftformer, cvnets, save, tmp_path):
    refused(save(swiftformer | cvnets), tmp_path, r"ambiguous.*MobileViTv2 \(apple.*SwiftFormer \(Amsh")


def test_another_family_than_asked_for(swiftformer, save, tmp_path):
    error = refused(
        save(swiftformer),
        tmp_path,
        r"recognised as SwiftFormer .* not fit mobilevit_s: 0 of 311 tensors match",
        model="mobilevit_s",
    )
    assert "Leave out --model" in error.fix


def test_missing_and_unexpected_names_with_the_nearest(swiftformer, save, tmp_path):
    swiftformer["network.0.0.dwconv.wieght"] = swiftformer.pop("network.0.0.dwconv.weight")
    near = r"stages\.0\.blocks\.0\.dwconv"
    refused(
        save(swiftformer),
        tmp_path,
        rf"315 of 316 tensors match; missing: {near}\.weight \(nearest: {near}\.wieght\); "
        rf"unexpected: {near}\.wieght \(nearest: {near}\.weight\)",
    )


def test_wrong_shapes(swiftformer, save, tmp_path):
    swiftformer["network.0.0.dwconv.weight"] = torch.zeros(48, 1, 5, 5)
    refused(save(swiftformer), tmp_path, r"of another shape: .*dwconv\.weight \(48, 1, 5, 5\) for \(48, 1, 3")


def test_a_size_that_was_never_published(swiftformer, save, tmp_path):
    swiftformer["network.5.proj.weight"] = torch.zeros(225, 168, 3, 3)
    refused(
        save(swiftformer), tmp_path, r"no published size.*nearest is swiftformer_xs: \(48, 56, 112, 220\)"
    )


def test_a_width_that_is_none(cvnets, save, tmp_path):
    cvnets["conv_1.block.conv.weight"] = torch.zeros(17, 3, 3, 3)
    refused(save(cvnets), tmp_path, "MobileViTv2 of no width: channels .17, 32")


@pytest.mark.parametrize("damage", ["gone", "scalar"])
def test_tensors_that_tell_the_variant_are_not_there(swiftformer, save, tmp_path, damage):
    key = "network.1.proj.weight"
    swiftformer[key] = torch.tensor(1.0)
    if damage == "gone":
        del swiftformer[key]
    refused(save(swiftformer), tmp_path, r"SwiftFormer, but stages\.1\.downsample\.proj\.weight .* not there")


@pytest.mark.parametrize("key", ["head.weight", "patch_embed.0.weight"])
def test_odd_shapes_where_classes_and_channels_are_counted(swiftformer, save, tmp_path, key):
    swiftformer[key] = torch.tensor(1.0)
    refused(save(swiftformer), tmp_path, "of another shape")


def test_two_names_for_one_tensor(swiftformer, save, tmp_path):
    swiftformer["head_dist.weight"] = swiftformer["dist_head.weight"]
    refused(save(swiftformer), tmp_path, "are both head_dist.weight")


def test_an_unknown_model(swiftformer, save, tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean swiftformer_xs"):
        import_checkpoint(save(swiftformer), out=tmp_path / "out", model="swiftformr_xs")


class _Attack:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("place", ["args", "model", "inside options"])
def test_a_hostile_file_is_refused_and_runs_nothing(swiftformer, save, tmp_path, place):
    proof = tmp_path / "proof"
    attack = _Attack(proof)
    more = {"args": attack} if place == "args" else {"options": {"deep": [attack]}}
    path = save(swiftformer | {"x": attack} if place == "model" else swiftformer, **more)
    refused(path, tmp_path, r"tensors and options \((posix|nt)\.mkdir\)")
    assert not proof.exists()
    torch.load(path, weights_only=False)  # the attack is a real one
    assert proof.exists()


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_to_names_and_shapes_makes_anything_but_our_error(small, save, tmp_path, data):
    keys = st.sampled_from(sorted(key for key in small if small[key].ndim))
    gone = data.draw(st.sets(keys, max_size=2), label="gone")
    odd = data.draw(st.sampled_from([(), (0,), (3,), (1, 2), (2, 0, 1, 1), (1,) * 6]), label="odd shape")
    reshaped = data.draw(st.sets(keys, min_size=0 if gone else 1, max_size=2), label="reshaped") - gone
    state = {key: value for key, value in small.items() if key not in gone}
    path = save(state | {key: torch.zeros(odd) for key in reshaped})
    with pytest.raises(CheckpointError):
        import_checkpoint(path, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_truncated_file(swiftformer, save, tmp_path):
    path = save(swiftformer)
    path.write_bytes(path.read_bytes()[:100_000])
    refused(path, tmp_path, "truncated")


def test_a_missing_file(tmp_path):
    refused(tmp_path / "none.pth", tmp_path, "no weights file")


# ------------------------------------------------------------------------------- what is there already


def test_importing_again_is_fine_but_another_file_takes_no_ones_place(cvnets, save, tmp_path):
    path = save(cvnets)
    first = import_checkpoint(path, out=tmp_path / "out").file.read_bytes()
    assert import_checkpoint(path, out=tmp_path / "out").file.read_bytes() == first
    other = save({key: value + 1 for key, value in cvnets.items()}, name="other.pt")
    with pytest.raises(CheckpointError, match="there already") as error:
        import_checkpoint(other, out=tmp_path / "out")
    assert "--out" in error.value.fix
    assert (tmp_path / "out" / "mobilevitv2_050.safetensors").read_bytes() == first


@pytest.mark.parametrize("content", ["", "[]", '{"source": 1}', "{}"])
def test_a_foreign_json_is_not_replaced(cvnets, save, tmp_path, content):
    record = tmp_path / "out" / "mobilevitv2_050.json"
    record.parent.mkdir()
    record.write_text(content)
    with pytest.raises(CheckpointError, match="there already"):
        import_checkpoint(save(cvnets), out=record.parent)
    assert record.read_text() == content


def test_weights_without_json_are_kept_unless_they_are_the_same(cvnets, save, tmp_path):
    path = save(cvnets)
    file = import_checkpoint(path, out=tmp_path / "out").file
    file.with_suffix(".json").unlink()  # as when the import was killed between its two files
    import_checkpoint(path, out=tmp_path / "out")
    file.with_suffix(".json").unlink()
    file.write_bytes(b"mine")
    with pytest.raises(CheckpointError, match="there already"):
        import_checkpoint(path, out=tmp_path / "out")
    assert file.read_bytes() == b"mine"


def test_a_full_disk_leaves_nothing(cvnets, save, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = save(cvnets)
    monkeypatch.setattr(files, "_flush_to_disk", full)
    with pytest.raises(StorageError, match="disk is full"):
        import_checkpoint(path, out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
