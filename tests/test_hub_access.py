"""Revisions, tokens, the cache and broken transfers: as for any model of the Hub."""

from itertools import count
from pathlib import Path

import pytest
import torch
from conftest import randomised, tiny_model
from huggingface_hub import HfApi
from safetensors.torch import load
from transformers import AutoModel

from sfrecsam_hf import SFRecSamConfig, SFRecSamModel, SFRecSamProcessor
from sfrecsam_hf.inference.checkpoints import load_checkpoint

NAME = "org/versions"
SEEDS = count(1)


def new_model() -> SFRecSamModel:
    """A model like no other, whose weight file is not on the Hub yet."""
    return randomised(tiny_model(), seed=next(SEEDS))


def same_weights(loaded: SFRecSamModel, model: SFRecSamModel) -> bool:
    expected = model.state_dict()
    return all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


@pytest.fixture(scope="module")
def versions(hub):
    """Two commits on `main`, the first tagged `v1`; a third on the branch `trial`."""
    models = {revision: new_model() for revision in ("v1", "main", "trial")}
    models["v1"].push_to_hub(NAME)
    HfApi().create_tag(NAME, tag="v1")
    models["main"].push_to_hub(NAME)
    models["trial"].push_to_hub(NAME, revision="trial")
    return models


@pytest.mark.parametrize("revision", ["main", "v1", "trial"])
def test_each_revision_holds_its_own_weights(versions, revision):
    assert same_weights(AutoModel.from_pretrained(NAME, revision=revision), versions[revision])
    commit = HfApi().model_info(NAME, revision=revision).sha
    assert same_weights(SFRecSamModel.from_pretrained(NAME, revision=commit), versions[revision])


def test_an_unknown_revision_is_named(versions):
    with pytest.raises(OSError, match="v9"):
        SFRecSamModel.from_pretrained(NAME, revision="v9")


def test_a_large_model_comes_in_shards(hub):
    model = new_model()
    model.push_to_hub("org/shards", max_shard_size="300KB")
    assert len([path for path in hub.files("org/shards") if path.startswith("model-0")]) > 1
    assert same_weights(SFRecSamModel.from_pretrained("org/shards"), model)


def test_nothing_that_could_execute_on_loading_but_code_is_pushed(versions, hub):
    assert {Path(path).suffix for path in hub.files(NAME)} == {".json", ".md", ".py", ".safetensors"}


def test_a_private_model_needs_the_token(hub, processor):
    model = new_model()
    with pytest.raises(OSError, match="401"):
        model.push_to_hub("org/members", private=True, token=False)
    model.push_to_hub("org/members", private=True, token=hub.token)
    processor.push_to_hub("org/members", token=hub.token)
    assert HfApi().model_info("org/members").private
    for part in (SFRecSamConfig, SFRecSamModel, SFRecSamProcessor):
        with pytest.raises(OSError, match="org/members"):
            part.from_pretrained("org/members", token=False)
    assert same_weights(AutoModel.from_pretrained("org/members", token=hub.token), model)
    loaded = SFRecSamProcessor.from_pretrained("org/members", token=hub.token)
    assert loaded.image_processor.to_dict() == processor.image_processor.to_dict()


def test_the_cache_answers_when_the_hub_is_gone(hub, tmp_path):
    model = new_model()
    model.push_to_hub("org/cached")
    with pytest.raises(OSError, match="couldn't find them in the cached files"):
        SFRecSamModel.from_pretrained("org/cached", cache_dir=tmp_path, local_files_only=True)
    SFRecSamModel.from_pretrained("org/cached", cache_dir=tmp_path)
    hub.stop()
    loaded = [
        SFRecSamModel.from_pretrained("org/cached", cache_dir=tmp_path, **options)
        for options in ({}, {"local_files_only": True})
    ]
    hub.start()
    assert all(same_weights(again, model) for again in loaded)


def test_a_model_that_is_nowhere_is_named(hub):
    with pytest.raises(OSError, match="org/nowhere"):
        SFRecSamModel.from_pretrained("org/nowhere")
    with pytest.raises(FileNotFoundError, match="org/nowhere is neither a folder"):
        load_checkpoint("org/nowhere")


def test_a_download_that_breaks_off_goes_on(hub, tmp_path):
    """With the bundled model: the client keeps pieces of 10 MB."""
    model, _ = load_checkpoint(device="cpu")
    model.push_to_hub("org/resumed")
    with hub.failing("GET", "model.safetensors", after=15_000_000, once=True):
        loaded = SFRecSamModel.from_pretrained("org/resumed", cache_dir=tmp_path)
    assert same_weights(loaded, model)
    ranges = [
        ranged for method, path, ranged in hub.requests if method == "GET" and path.endswith("model.safetensors")
    ]
    assert [ranges[-2], ranges[-1][:8]] == ["", "bytes=10"]


def test_a_download_that_fails_leaves_nothing_half_valid(hub, tmp_path):
    model = new_model()
    model.push_to_hub("org/download")
    with hub.failing("GET", "model.safetensors", after=200_000), pytest.raises(OSError, match="org/download"):
        SFRecSamModel.from_pretrained("org/download", cache_dir=tmp_path)
    assert not list(tmp_path.rglob("model.safetensors"))
    with pytest.raises(OSError, match="org/download"):
        SFRecSamModel.from_pretrained("org/download", cache_dir=tmp_path, local_files_only=True)
    assert same_weights(SFRecSamModel.from_pretrained("org/download", cache_dir=tmp_path), model)


@pytest.mark.parametrize(("method", "path"), [("PUT", "/objects/"), ("POST", "/commit/")])
def test_an_upload_that_fails_leaves_the_old_version_whole(hub, method, path):
    name, old, new = f"org/upload-{method.lower()}", new_model(), new_model()
    old.push_to_hub(name)
    files, messages = hub.files(name), hub.messages(name)
    with hub.failing(method, path, after=200_000), pytest.raises((OSError, RuntimeError)):
        new.push_to_hub(name)
    assert (hub.files(name), hub.messages(name)) == (files, messages)
    assert same_weights(SFRecSamModel.from_pretrained(name), old)
    new.push_to_hub(name)
    weights = load(hub.files(name)["model.safetensors"])
    assert all(torch.equal(value, new.state_dict()[key]) for key, value in weights.items())


def test_a_first_upload_that_fails_leaves_no_model(hub):
    with hub.failing("PUT", "/objects/", after=200_000), pytest.raises((OSError, RuntimeError)):
        new_model().push_to_hub("org/first")
    assert hub.files("org/first") == {}
    with pytest.raises(OSError, match="org/first"):
        SFRecSamModel.from_pretrained("org/first")
