"""Networks' weights under the names that the official repositories give them, written out independently."""

import argparse
import re

import pytest
import torch

from pocketvit.backbones import create_model


def _cvnets(key):
    """Names that MobileViT and MobileViTv2 share: convolutions and norms, stages, inverted residuals."""
    key = re.sub(r"\.bn\.", ".block.norm.", key)
    key = re.sub(r"\.conv\.weight$", ".block.conv.weight", key)
    for ours, theirs in {"conv1_1x1": "exp_1x1", "conv2_kxk": "conv_3x3", "conv3_1x1": "red_1x1"}.items():
        key = key.replace(f".{ours}.", f".block.{theirs}.")
    key = re.sub(r"^stages\.(\d)\.", lambda m: f"layer_{int(m[1]) + 1}.", key)
    return key.replace("stem.", "conv_1.")


def mobilevit(key):
    key = _cvnets(key)
    last = {"layer_3": 2, "layer_4": 4, "layer_5": 3}.get(key.split(".")[0])
    table = {
        ".1.conv_kxk.": ".1.local_rep.conv_3x3.",
        ".1.conv_1x1.": ".1.local_rep.conv_1x1.block.conv.",
        ".1.conv_fusion.": ".1.fusion.",
        ".1.norm.": f".1.global_rep.{last}.",
        ".transformer.": ".global_rep.",
        ".norm1.": ".pre_norm_mha.0.",
        ".attn.qkv.": ".pre_norm_mha.1.qkv_proj.",
        ".attn.proj.": ".pre_norm_mha.1.out_proj.",
        ".norm2.": ".pre_norm_ffn.0.",
        ".mlp.fc1.": ".pre_norm_ffn.1.",
        ".mlp.fc2.": ".pre_norm_ffn.4.",
        "final_conv.": "conv_1x1_exp.",
        "head.fc.": "classifier.fc.",
    }
    for ours, theirs in table.items():
        key = key.replace(ours, theirs)
    return key


def mobilevitv2(key):
    key = _cvnets(key)
    last = {"layer_3": 2, "layer_4": 4, "layer_5": 3}.get(key.split(".")[0])
    table = {
        ".1.conv_kxk.": ".1.local_rep.0.",
        ".1.conv_1x1.": ".1.local_rep.1.block.conv.",
        ".1.norm.": f".1.global_rep.{last}.",
        ".transformer.": ".global_rep.",
        ".norm1.": ".pre_norm_attn.0.",
        ".attn.qkv_proj.": ".pre_norm_attn.1.qkv_proj.block.conv.",
        ".attn.out_proj.": ".pre_norm_attn.1.out_proj.block.conv.",
        ".norm2.": ".pre_norm_ffn.0.",
        ".mlp.fc1.": ".pre_norm_ffn.1.block.conv.",
        ".mlp.fc2.": ".pre_norm_ffn.3.block.conv.",
        "head.fc.": "classifier.1.",
    }
    for ours, theirs in table.items():
        key = key.replace(ours, theirs)
    return key


def _network(key):
    key = re.sub(r"^stages\.(\d)\.blocks\.", lambda m: f"network.{2 * int(m[1])}.", key)
    key = re.sub(r"^stages\.(\d)\.downsample\.", lambda m: f"network.{2 * int(m[1]) - 1}.", key)
    return key.replace("head_dist.", "dist_head.")


def swiftformer(key):
    key = _network(key).removesuffix(".gamma")
    return key.replace("stem.", "patch_embed.").replace(".attn.proj.", ".attn.Proj.")


def unchanged(key):
    return key


def efficientformer(key):
    for ours, theirs in {"conv1": 0, "norm1": 1, "conv2": 3, "norm2": 4}.items():
        key = key.replace(f"stem.{ours}.", f"patch_embed.{theirs}.")
    key = re.sub(r"\.ls([12])\.gamma$", r".layer_scale_\1", key)
    return _network(key.replace(".downsample.conv.", ".downsample.proj."))


def efficientformerv2(key):
    for ours, theirs in {"conv1.conv": 0, "conv1.bn": 1, "conv2.conv": 3, "conv2.bn": 4}.items():
        key = key.replace(f"stem.{ours}.", f"patch_embed.{theirs}.")
    # the downsampling before the last stage has attention, and other names
    conv, norm = ("conv", "bn") if key.startswith("stages.3.") else ("proj", "norm")
    table = {
        ".downsample.conv.conv.": f".downsample.{conv}.",
        ".downsample.conv.bn.": f".downsample.{norm}.",
        ".fc1.conv.": ".fc1.",
        ".fc1.bn.": ".norm1.",
        ".mid.conv.": ".mid.",
        ".mid.bn.": ".mid_norm.",
        ".fc2.conv.": ".fc2.",
        ".fc2.bn.": ".norm2.",
        ".attn.proj.conv.": ".attn.proj.1.",
        ".attn.proj.bn.": ".attn.proj.2.",
        ".token_mixer.proj.conv.": ".token_mixer.proj.1.",
        ".token_mixer.proj.bn.": ".token_mixer.proj.2.",
        ".q.local.": ".q.local.0.",
    }
    for ours, theirs in table.items():
        key = key.replace(ours, theirs)
    if ".attn." in key or ".token_mixer." in key:
        key = key.replace(".conv.", ".0.").replace(".bn.", ".1.")
    return _network(re.sub(r"\.ls([12])\.gamma$", r".layer_scale_\1", key))


NAMES = {
    "mobilevit": mobilevit,
    "mobilevitv2": mobilevitv2,
    "swiftformer": swiftformer,
    "cas_vit": unchanged,
    "efficientformer": efficientformer,
    "efficientformerv2": efficientformerv2,
    "mobile_former": unchanged,
}


def _official(model_name, state):
    family = max((name for name in NAMES if model_name.startswith(name)), key=len)
    tensors = {NAMES[family](key): value for key, value in state.items()}
    assert len(tensors) == len(state)
    if family == "efficientformerv2":
        tensors |= {
            key.replace("biases", "bias_idxs"): torch.zeros(49, 49, dtype=torch.long)
            for key in list(tensors)
            if key.endswith("attention_biases")
        }
        scales = [key for key in tensors if ".layer_scale_" in key]
        tensors |= {key: tensors[key].reshape(-1, 1, 1) for key in scales}
    return tensors


@pytest.fixture(scope="session")
def official():
    """From a model's name and state dict to the state dict that the official code would have."""
    return _official


@pytest.fixture(scope="session")
def original(randomise):
    """A network with weights that tell its tensors apart, in evaluation mode."""

    def make(name, **options):
        torch.manual_seed(0)
        return randomise(create_model(name, **options)).eval()

    return make


@pytest.fixture
def save(tmp_path):
    """Save a state dict as a training script does, with its options beside it; returns the file."""

    def write(state, *, wrapper="model", name="official.pth", **more):
        options = argparse.Namespace(model="x", lr=1e-3, nested=argparse.Namespace(sizes=[1, 2]))
        path = tmp_path / name
        torch.save({wrapper: state, "args": options, "epoch": 300, **more} if wrapper else state, path)
        return path

    return write
