"""The checkpointer reads every format, writes files for both hosts, and resumes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_samples import (
    CLASSES,
    check_same,
    dinov2,
    dinov3,
    equal,
    hf_dinov2,
    hf_dinov3,
    official_from_hf,
    saved,
    split_delta,
)
from detectron2.data import MetadataCatalog
from detectron2_sets import forget_test_sets
from inferencer_models import small_config
from mmengine.logging import HistoryBuffer
from mmengine.runner import load_checkpoint

from eomt_mm.apis import init_model
from eomt_mm.apis.model import local_checkpoint
from eomt_mm.checkpoints.torch_files import read_torch
from eomt_mm.detectron2.checkpoint import EoMTCheckpointer
from eomt_mm.detectron2.data_sets import register_own_panoptic
from eomt_mm.fileio.leftovers import part_of

OWN_NAMES = ('circle', 'square', 'triangle')


@pytest.fixture(autouse=True)
def empty_catalogs() -> Iterator[None]:
    yield
    forget_test_sets()


@pytest.fixture
def own_set() -> str:
    """A data set of three classes that is registered and never read."""
    register_own_panoptic('test_own', 'x.json', dict(img='i', seg='s'), OWN_NAMES[:2], OWN_NAMES[2:])
    return 'test_own'


def files_of(peer: Any, folder: Path) -> dict[str, Path]:
    """The weights of a Hugging Face model in several formats."""
    official = official_from_hf(peer)
    peer.save_pretrained(folder / 'hf')
    return {
        'official': saved(official, folder / 'official.bin'),
        'lightning': saved(dict(state_dict=official, epoch=3), folder / 'last.ckpt'),
        'folder': folder / 'hf',
    }


@pytest.mark.parametrize('family', [(dinov2, hf_dinov2), (dinov3, hf_dinov3)], ids=['dinov2', 'dinov3'])
def test_released_formats(family: Any, tmp_path: Path) -> None:
    make, peer = family[0], family[1]()
    for path in files_of(peer, tmp_path).values():
        model = make()
        assert EoMTCheckpointer(model).load(str(path)) == {}
        check_same(model, model.state_dict(), peer)


def test_differences_to_a_backbone(tmp_path: Path) -> None:
    peer = hf_dinov3()
    delta, base = split_delta(official_from_hf(peer))
    path, base_path = saved(delta, tmp_path / 'delta.bin'), saved(base, tmp_path / 'base.pth')
    model = dinov3()
    EoMTCheckpointer(model, base=str(base_path)).load(str(path))
    check_same(model, model.state_dict(), peer)
    absolute = saved(official_from_hf(peer), tmp_path / 'absolute.bin')
    EoMTCheckpointer(model, base=str(base_path)).load(str(absolute))  # which needs no base
    check_same(model, model.state_dict(), peer)


def test_files_go_to_mm_and_back(tmp_path: Path) -> None:
    cfg = small_config('panoptic')
    torch.manual_seed(1)
    model = init_model(cfg)
    EoMTCheckpointer(model, str(tmp_path)).save('model_final', iteration=7)
    path = tmp_path / 'model_final.pth'
    assert equal(init_model(cfg, path).state_dict(), model.state_dict())
    cfg.work_dir = str(tmp_path)
    assert local_checkpoint(cfg, path) == str(path), 'the runner reads it as it is'
    found = init_model(cfg)
    load_checkpoint(found, str(path), strict=True)
    assert equal(found.state_dict(), model.state_dict())
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'iter_1.pth')
    again = init_model(cfg)
    EoMTCheckpointer(again).load(str(tmp_path / 'iter_1.pth'))
    assert equal(again.state_dict(), model.state_dict())


def test_the_weights_are_in_the_file_once(tmp_path: Path) -> None:
    model = dinov2()
    EoMTCheckpointer(model, str(tmp_path)).save('both')
    single = saved(model.state_dict(), tmp_path / 'single.pth')
    assert (tmp_path / 'both.pth').stat().st_size < 1.2 * single.stat().st_size


def test_resuming_restores_everything_and_starting_only_weights(tmp_path: Path, own_set: str) -> None:
    model = dinov2()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.25)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    writer = EoMTCheckpointer(model, str(tmp_path), data_set=own_set, optimizer=optimiser)
    writer.save('model_0000006', iteration=6, best=np.float64(0.5))

    other = dinov2(queries=4)
    fresh = torch.optim.AdamW(other.parameters(), lr=1.0)
    reader = EoMTCheckpointer(other, str(tmp_path), data_set=own_set, optimizer=fresh)
    assert reader.has_checkpoint()
    assert reader.resume_or_load('', resume=True) == dict(iteration=6, best=0.5)
    assert equal(other.state_dict(), model.state_dict())
    assert fresh.param_groups[0]['lr'] == 0.25
    assert len(fresh.state_dict()['state']) == len(optimiser.state_dict()['state'])

    starting = torch.optim.AdamW(other.parameters(), lr=1.0)
    begun = EoMTCheckpointer(other, str(tmp_path / 'new'), data_set=own_set, optimizer=starting)
    assert begun.resume_or_load(str(tmp_path / 'model_0000006.pth'), resume=True) == {}
    assert starting.param_groups[0]['lr'] == 1.0


def test_a_backbone_starts_a_training_and_is_no_model(tmp_path: Path) -> None:
    pretrained, model = dinov2(), dinov2()
    path = saved(pretrained.backbone.vit.state_dict(), tmp_path / 'backbone.pth')
    with torch.no_grad():
        model.backbone.vit.cls_token.zero_()
    head = {name: value.clone() for name, value in model.state_dict().items() if name.startswith('panoptic_head.')}
    EoMTCheckpointer(model).resume_or_load(str(path), resume=False)
    assert equal(model.backbone.state_dict(), pretrained.backbone.state_dict())
    assert all(torch.equal(model.state_dict()[name], value) for name, value in head.items())
    with pytest.raises(ValueError, match=r'is not a complete model: it lacks \d+ weights, such as panoptic_head'):
        EoMTCheckpointer(model).load(str(path))


def test_classes_are_written_and_compared(tmp_path: Path, own_set: str) -> None:
    model = dinov2()
    EoMTCheckpointer(model, str(tmp_path), data_set=own_set).save('own')
    assert read_torch(tmp_path / 'own.pth')['meta']['dataset_meta']['classes'] == OWN_NAMES
    register_own_panoptic('test_other', 'x.json', dict(img='i', seg='s'), ('cat', 'dog'), ('sky',))
    path = str(tmp_path / 'own.pth')
    with pytest.raises(ValueError, match='names other classes than data set test_other'):
        EoMTCheckpointer(model, data_set='test_other').load(path)
    other = dinov2()
    with torch.no_grad():
        other.panoptic_head.class_predictor.weight.fill_(3)
    EoMTCheckpointer(other, data_set='test_other', class_head='auto').load(path, checkpointables=[])
    assert (other.panoptic_head.class_predictor.weight == 3).all()
    EoMTCheckpointer(other, data_set=own_set, class_head='auto').load(path, checkpointables=[])
    assert equal(other.state_dict(), model.state_dict())


def test_number_of_classes(tmp_path: Path) -> None:
    path = str(saved(official_from_hf(hf_dinov2()), tmp_path / 'x.bin'))
    with pytest.raises(ValueError, match=f'classes: {CLASSES} in the file, 5 in the model'):
        EoMTCheckpointer(dinov2(classes=5)).load(path, checkpointables=[])
    EoMTCheckpointer(dinov2(classes=5), class_head='auto').load(path, checkpointables=[])
    with pytest.raises(ValueError, match=f'classes: {CLASSES} in the file, 5 in the model'):
        EoMTCheckpointer(dinov2(classes=5), class_head='auto').load(path)
    with pytest.raises(ValueError, match="class_head='no'"):
        EoMTCheckpointer(dinov2(), class_head='no')  # type: ignore[arg-type]


class Harmful:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ('1 + 1',)


def test_nothing_is_executed(tmp_path: Path) -> None:
    path = saved(dict(model=dinov2().state_dict(), extra=Harmful()), tmp_path / 'bad.pth')
    for checkpointables in (None, []):
        with pytest.raises(ValueError, match='holds more than weights .*eval.*could execute code'):
            EoMTCheckpointer(dinov2()).load(str(path), checkpointables)


def test_no_file_and_another_scheme(tmp_path: Path) -> None:
    model = dinov2()
    assert EoMTCheckpointer(model).load('') == {}
    with pytest.raises(FileNotFoundError, match='nothing.pth does not exist'):
        EoMTCheckpointer(model).load(str(tmp_path / 'nothing.pth'))
    with pytest.raises(ValueError, match='begin with http'):
        EoMTCheckpointer(model).load('detectron2://x/model.pkl')


def test_a_write_that_fails_leaves_the_last_file(tmp_path: Path) -> None:
    checkpointer = EoMTCheckpointer(dinov2(), str(tmp_path))
    checkpointer.save('model')
    before = (tmp_path / 'model.pth').read_bytes()
    with pytest.raises(AttributeError):
        checkpointer.save('model', hook=lambda: None)  # cannot be pickled
    assert (tmp_path / 'model.pth').read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ['last_checkpoint', 'model.pth']
    with pytest.raises(ValueError, match='a file name without folders'):
        checkpointer.save('../model')
    EoMTCheckpointer(dinov2(), str(tmp_path / 'other'), save_to_disk=False).save('model')
    assert not (tmp_path / 'other').exists()


def test_what_killed_processes_left_is_removed_at_the_start(tmp_path: Path) -> None:
    EoMTCheckpointer(dinov2(), str(tmp_path)).save('model_0000001')
    left = part_of(tmp_path / 'model_0000002.pth')
    left.write_bytes(b'half')
    EoMTCheckpointer(dinov2(), str(tmp_path), save_to_disk=False).resume_or_load('', resume=True)
    assert left.exists(), 'only the process that writes removes'
    EoMTCheckpointer(dinov2(), str(tmp_path)).resume_or_load('', resume=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['last_checkpoint', 'model_0000001.pth']


def test_names_of_standard_metadata(tmp_path: Path) -> None:
    MetadataCatalog.get('test_standard').set(thing_classes=list(OWN_NAMES))
    EoMTCheckpointer(dinov2(), str(tmp_path), data_set='test_standard').save('x')
    assert read_torch(tmp_path / 'x.pth')['meta']['dataset_meta'] == dict(classes=OWN_NAMES)


def test_mmengine_files(tmp_path: Path) -> None:
    model, found = dinov2(), dinov2()
    log = dict(log_scalars=dict(loss=HistoryBuffer([1.0], [1])))
    path = saved(dict(state_dict=model.state_dict(), meta={}, message_hub=log, optimizer={}), tmp_path / 'iter_2.pth')
    with torch.no_grad():
        found.backbone.vit.cls_token.zero_()
    optimiser = torch.optim.AdamW(found.parameters(), lr=0.5)
    assert EoMTCheckpointer(found, optimizer=optimiser).load(str(path)) == {}, 'mmengine names parameters otherwise'
    assert equal(found.state_dict(), model.state_dict())
    assert optimiser.param_groups[0]['lr'] == 0.5
