"""`sfrecsam push` and `push-data`: one commit with all that belongs to a model, which then loads from the Hub."""

import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import SAMPLES, randomised, tiny_model, tiny_sam
from datasets import load_dataset
from huggingface_hub import DatasetCard, HfApi, ModelCard
from safetensors.torch import load
from stranger import run_as_stranger
from transformers import SamConfig, SamModel

from sfrecsam_hf import SFRecSamModel, segment
from sfrecsam_hf.cli import main
from sfrecsam_hf.data.loading import load_busi
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.modeling.adapters_only import additions
from sfrecsam_hf.modeling.training_stages import NEW_MODULES
from sfrecsam_hf.publishing.push import push, push_data


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


def sentence(capsys) -> str:
    """The last line on stderr, below the progress bars."""
    return capsys.readouterr().err.removesuffix("\n").rsplit("\n", 1)[-1]


@pytest.fixture(scope="module")
def pushed(evaluated_run, hub) -> str:
    assert main(["push", str(evaluated_run), "org/whole"]) == 0
    return "org/whole"


def test_everything_is_there_in_one_commit(pushed, evaluated_run, hub):
    files = hub.files(pushed)
    code = {"modeling_sfrecsam.py", "configuration_sfrecsam.py", "pipeline_sfrecsam.py", "adapters_only.py"}
    weights = {"config.json", "model.safetensors", "processor_config.json"}
    measured = {"README.md", "results.json", "per_image.csv", "worst.png", "reliability.png", "training_summary.json"}
    below = {"samples/results.json", "samples/worst.png", ".eval_results/busi.yaml", ".eval_results/samples.yaml"}
    assert files.keys() >= code | weights | measured | below
    assert len(hub.messages(pushed)) == 2, "the first commit is that of the empty repository"
    for name in ("results.json", "worst.png"):
        assert files[name] == (evaluated_run / "evaluation" / name).read_bytes()
    assert not [name for name in files if name.endswith((".bin", ".pkl", ".pt", ".pth"))]
    everything = b"".join(content for name, content in files.items() if not name.endswith((".png", ".safetensors")))
    assert str(evaluated_run.parent).encode() not in everything


def test_the_card_names_its_repository(pushed, hub):
    card = ModelCard.load(pushed)
    assert card.data.model_name == "whole"
    assert f'model="{pushed}"' in card.text
    info = HfApi().model_info(pushed)
    assert (info.pipeline_tag, info.library_name) == ("image-segmentation", "transformers")


def test_the_quick_start_of_the_card_runs_without_this_package(pushed, hub, evaluated_run, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", ModelCard.load(pushed).text, flags=re.DOTALL)
    assert len(blocks) == 2
    shutil.copy(SAMPLES / "bus_0180-l.png", tmp_path / "scan.png")
    assert "longest_diameter" in run_as_stranger(hub, tmp_path, "\n".join(blocks)).stdout
    (found,) = segment(*load_checkpoint(evaluated_run / "best", "cpu"), [tmp_path / "scan.png"])
    assert np.array_equal(np.asarray(PIL.Image.open(tmp_path / "mask.png")) > 0, found.mask)


def test_pushing_again_changes_nothing(pushed, evaluated_run, hub):
    before = len(hub.messages(pushed))
    assert push(evaluated_run, pushed).endswith(pushed)
    assert len(hub.messages(pushed)) == before


def test_large_weights_are_sharded_and_old_ones_leave(evaluated_run, hub, tmp_path):
    push(evaluated_run, "org/sharded")
    push(evaluated_run, "org/sharded", shard_size="200KB")
    files = hub.files("org/sharded")
    assert "model.safetensors" not in files
    assert "model.safetensors.index.json" in files
    assert sum(name.endswith(".safetensors") for name in files) > 2
    assert len(hub.messages("org/sharded")) == 3, "one commit each"
    assert same_weights(SFRecSamModel.from_pretrained("org/sharded"), tiny_model())
    assert ModelCard.load("org/sharded").text.replace("sharded", "whole") == ModelCard.load("org/whole").text


def test_private_is_private_and_never_public_by_mistake(pushed, evaluated_run, hub, capsys):
    assert main(["push", str(evaluated_run), "org/secret", "--private"]) == 0
    assert hub.repositories["models", "org/secret"].private
    assert not hub.repositories["models", pushed].private
    before = hub.messages(pushed)
    assert main(["push", str(evaluated_run), pushed, "--private"]) == 2
    assert sentence(capsys).startswith("sfrecsam: org/whole exists and is public; ")
    assert hub.messages(pushed) == before


def test_pictures_of_patients_stay_at_home_if_asked(evaluated_run, hub):
    assert main(["push", str(evaluated_run), "org/plain", "--no-pictures", "--license", "mit"]) == 0
    files = hub.files("org/plain")
    assert not [name for name in files if name.endswith("worst.png")]
    assert "reliability.png" in files
    card = ModelCard.load("org/plain")
    assert "worst.png" not in card.text
    assert card.data.license == "mit"


def test_a_model_repository_can_be_pushed_too(pushed, hub, tmp_path):
    HfApi().snapshot_download(pushed, local_dir=tmp_path)
    push(tmp_path, "org/copy")
    assert hub.files("org/copy").keys() == hub.files(pushed).keys() - {".gitattributes"}
    assert hub.files("org/copy")["model.safetensors"] == hub.files(pushed)["model.safetensors"]


@pytest.fixture(scope="module")
def extended(hub, evaluated_run, tmp_path_factory):
    """A SAM on the Hub, a run that trained only what extends it, and that model."""
    tiny_sam().push_to_hub("org/tiny-sam")
    commit = HfApi().model_info("org/tiny-sam").sha
    model = SFRecSamModel.from_sam("org/tiny-sam")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if any(part in name for part in NEW_MODULES):
                value.add_(0.05 * torch.randn(value.shape, generator=generator))
    # The SAM moves on after the training.
    randomised(tiny_sam(), seed=9).push_to_hub("org/tiny-sam")
    folder = tmp_path_factory.mktemp("runs") / "extended"
    shutil.copytree(evaluated_run, folder)
    model.save_pretrained(folder / "best")
    return model, folder, commit


def test_adapters_alone_load_as_the_whole_model(extended, hub, pixels):
    model, folder, commit = extended
    assert main(["push", str(folder), "org/adapters", "--adapters-only"]) == 0
    stored = load(hub.files("org/adapters")["model.safetensors"])
    base = set(tiny_sam().state_dict()) - {"shared_image_embedding.positional_embedding"}
    assert not base & stored.keys(), "nothing of the SAM but the matrix that two modules share"
    again, info = SFRecSamModel.from_pretrained("org/adapters", output_loading_info=True)
    assert same_weights(model, again)
    assert not info["missing_keys"]
    assert (again.config.base_model, again.config.base_revision) == ("org/tiny-sam", commit)
    with torch.no_grad():
        assert torch.equal(again(pixels).pred_masks, model(pixels).pred_masks)
    data = ModelCard.load("org/adapters").data
    assert (data.base_model, data.base_model_relation) == ("org/tiny-sam", "adapter")
    assert "fetched from its own repository" in ModelCard.load("org/adapters").text


def test_what_was_loaded_from_adapters_is_a_whole_model(extended, hub, tmp_path):
    """Its SAM may be trained on; saved again, it needs no other repository."""
    _, folder, _ = extended
    push(folder, "org/adapters", adapters_only=True)
    again = SFRecSamModel.from_pretrained("org/adapters")
    with torch.no_grad():
        again.prompt_encoder.no_mask_embed.weight.add_(1.0)
    again.save_pretrained(tmp_path)
    assert same_weights(again, SFRecSamModel.from_pretrained(tmp_path))


def test_adapters_load_as_remote_code_and_can_be_saved_whole(extended, hub, tmp_path):
    model, folder, _ = extended
    push(folder, "org/adapters", adapters_only=True)
    code = """
from transformers import AutoModel
model = AutoModel.from_pretrained("org/adapters", trust_remote_code=True)
model.save_pretrained("whole")
"""
    run_as_stranger(hub, tmp_path, code)
    assert same_weights(model, SFRecSamModel.from_pretrained(tmp_path / "whole"))


def test_adapters_of_the_released_size_are_a_small_part(hub, tmp_path):
    """SAM ViT-B at the paper's geometry, with random weights: its positions are interpolated again on loading."""
    SamModel(SamConfig()).half().push_to_hub("org/sam-vit-base")
    model = SFRecSamModel.from_sam("org/sam-vit-base", image_size=256, patch_stride=8, window_size=16)
    weights = additions(model)
    model.config.adapters_only = True
    model.save_pretrained(tmp_path / "adapters", state_dict=dict(weights))
    again = SFRecSamModel.from_pretrained(tmp_path / "adapters")
    assert same_weights(model, again)
    assert again.vision_encoder.pos_embed.shape == (1, 32, 32, 768)
    whole = sum(value.numel() for value in model.parameters())
    share = sum(value.numel() for value in weights.values()) / whole
    assert 0.07 < share < 0.075  # 3 of it are the pretrained branch


def test_a_whole_model_names_its_sam_too(extended, hub):
    model, folder, _ = extended
    push(folder, "org/finetuned")
    assert same_weights(model, SFRecSamModel.from_pretrained("org/finetuned"))
    data = ModelCard.load("org/finetuned").data
    assert (data.base_model, data.base_model_relation) == ("org/tiny-sam", "finetune")


def test_adapters_that_cannot_stand_alone_are_refused(extended, evaluated_run, hub, tmp_path, capsys):
    _, folder, _ = extended
    assert main(["push", str(evaluated_run), "org/none", "--adapters-only"]) == 2
    assert sentence(capsys).startswith("sfrecsam: The model extends no SAM of the Hub ")
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    with torch.no_grad():
        other = SFRecSamModel.from_pretrained(changed / "best")
        other.prompt_encoder.no_mask_embed.weight.add_(1.0)
        other.save_pretrained(changed / "best")
    assert main(["push", str(changed), "org/none", "--adapters-only"]) == 2
    assert sentence(capsys).startswith("sfrecsam: Training has changed 1 weights of org/tiny-sam, ")
    assert ("models", "org/none") not in hub.repositories


def test_what_cannot_be_pushed_is_refused_in_one_sentence(evaluated_run, hub, tmp_path, capsys, monkeypatch):
    def refused(*arguments: str) -> str:
        before = set(hub.repositories)
        assert main(["push", *map(str, arguments)]) == 2
        assert set(hub.repositories) == before
        error = sentence(capsys)
        assert error.startswith("sfrecsam: ")
        return error

    assert "has no checkpoint in best/" in refused(tmp_path / "none", "org/x")
    assert "is no name of a Hub repository" in refused(evaluated_run, "org/a b")
    assert "is no name of a Hub repository" in refused(evaluated_run, "https://hub/org/x")
    bare = tmp_path / "bare"
    shutil.copytree(evaluated_run / "best", bare / "best")
    assert re.search(r"bare/evaluation has no results\.json; run `sfrecsam evaluate", refused(bare, "org/x"))
    damaged = tmp_path / "damaged"
    shutil.copytree(evaluated_run, damaged)
    (damaged / "best" / "model.safetensors").write_bytes(b"nothing")
    assert "truncated or damaged" in refused(damaged, "org/x")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert re.search(r"org/x could not be pushed: .*log in with", refused(evaluated_run, "org/x"))


def test_an_interrupted_push_leaves_the_last_one(evaluated_run, hub, capsys):
    push(evaluated_run, "org/interrupted")
    before = hub.files("org/interrupted")
    with hub.failing("POST", "/commit/", after=0):
        assert main(["push", str(evaluated_run), "org/interrupted", "--no-pictures"]) == 2
    assert re.match(r"sfrecsam: org/interrupted could not be pushed: ", sentence(capsys))
    assert hub.files("org/interrupted") == before


def test_a_killed_push_leaves_nothing_in_the_temporary_folder(evaluated_run, hub, tmp_path):
    """The run's copy is what a push lays out its files in; what a kill leaves there, the next push removes."""
    run, temporary = tmp_path / "run", tmp_path / "tmp"
    shutil.copytree(evaluated_run, run)
    temporary.mkdir()
    code = """
import os, signal, sys
from huggingface_hub import HfApi
HfApi.upload_folder = lambda *arguments, **options: os.kill(os.getpid(), signal.SIGKILL)
from sfrecsam_hf.cli import main
main(["push", sys.argv[1], "org/killed"])
"""
    environment = os.environ | hub.environment(tmp_path / "home") | {"TMPDIR": str(temporary)}
    done = subprocess.run([sys.executable, "-c", code, str(run)], env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not list(temporary.iterdir())
    assert (run / ".push" / "model.safetensors").is_file()
    push(run, "org/killed")
    assert {path.name for path in run.iterdir()} == {path.name for path in evaluated_run.iterdir()}
    assert not [name for name in hub.files("org/killed") if name.startswith(".push")]


def test_a_data_set_comes_back_as_it_was(busi_folder, hub, capsys):
    assert main(["push-data", str(busi_folder), "org/scans", "--private", "--license", "cc-by-4.0"]) == 0
    assert "org/scans" in capsys.readouterr().out
    assert hub.repositories["datasets", "org/scans"].private
    back, local = load_dataset("org/scans", split="train"), load_busi(busi_folder)
    assert back.features == local.features
    assert len(back) == len(local) == 20
    for here, there in zip(local, back, strict=True):
        assert [here[name] for name in ("label", "name", "group")] == [
            there[name] for name in ("label", "name", "group")
        ]
        for name in ("image", "mask"):
            assert np.array_equal(np.asarray(here[name]), np.asarray(there[name]))
    stored = b"".join(hub.files("org/scans", kind="datasets").values())
    assert str(busi_folder.parent).encode() not in stored


def test_a_data_set_has_a_card(busi_folder, hub):
    local = load_busi(busi_folder)
    push_data(local.select(range(12)), "org/carded", license="cc-by-4.0")
    push_data(local.select(range(12, 20)), "org/carded", split="val")
    card = DatasetCard.load("org/carded")
    assert card.data.license == "cc-by-4.0"
    assert card.data.task_categories == ["image-segmentation"]
    assert card.data.size_categories == ["n<1K"]
    assert "| `train` | 12 |\n| `val` | 8 |" in card.text
    assert "Licence: cc-by-4.0." in card.text
    block = re.search(r"```python\n(.*?)```", card.text, flags=re.DOTALL)[1]
    found: dict = {}
    exec(block, found)
    assert len(found["scans"]) == 12
    assert set(found["scans"].column_names) == set(re.findall(r"^\| `(\w+)` \| [^\d]", card.text, re.MULTILINE))


def test_the_text_that_somebody_wrote_into_a_data_card_stays(busi_folder, hub):
    local = load_busi(busi_folder).select(range(3))
    push_data(local, "org/written")
    mine = "---\nlicense: mit\ntags: [mine]\n---\n# Our scans\n"
    api = HfApi()
    api.upload_file(
        repo_id="org/written", repo_type="dataset", path_in_repo="README.md", path_or_fileobj=mine.encode()
    )
    push_data(local, "org/written")
    card = DatasetCard.load("org/written")
    assert card.text.strip() == "# Our scans"
    assert (card.data.license, card.data.tags) == ("mit", ["mine"])
    assert card.data.task_categories == ["image-segmentation"]


def test_the_library_call_does_the_same(busi_folder, hub):
    local = load_busi(busi_folder).select(range(3))
    local.push_to_hub("org/few")
    back = load_dataset("org/few", split="train")
    assert back["name"][:] == local["name"][:]
    assert np.array_equal(np.asarray(back[2]["mask"]), np.asarray(local[2]["mask"]))


def test_only_a_split_may_be_pushed(busi_folder, hub, tmp_path, capsys):
    splits = tmp_path / "splits.csv"
    splits.write_text("image,group,split\nbenign/benign (1).png,a,val\nbenign/benign (2).png,b,train\n")
    options = ["--splits", str(splits), "--split", "val"]
    assert main(["push-data", str(busi_folder), "org/split", *options]) == 0
    back = load_dataset("org/split", split="val")
    assert (back["name"][:], back["group"][:]) == (["benign/benign (1).png"], ["a"])
    assert main(["push-data", str(busi_folder), "org/a b"]) == 2
    assert main(["push-data", str(tmp_path / "none"), "org/none"]) == 2
    assert ("datasets", "org/none") not in hub.repositories
