"""Two processes are one: losses, gradients, weights, metrics; what the launchers' environments must hold."""

import os
from typing import Any

import pytest
import torch
import torch.distributed as dist
from copies import in_copies
from criterion_samples import NUMS as PARTED, K, Q, gradient as gradient_of_parts, gradients as gradients_of_logits
from mmengine.config import Config
from process_runs import (
    METRICS_OF,
    free_port,
    in_two_processes,
    loss_and_gradients,
    make_model,
    metric_results,
    model_results,
    parted_results,
    whole_results,
)
from torch import Tensor

from eomt_mm.engine.processes import start_processes
from eomt_mm.synthetic.generate import write_cityscapes

# Targets of two images, one per process: both have some, one has none, none has, more than the 6 queries.
COUNTS = [(2, 3), (3, 0), (0, 0), (9, 2)]
# Targets of 4 images, 2 per process. In the second case one process has none; in the last there is one in all, and
# the published normaliser of the mask losses stays at 1 per process: half the gradient of a single process.
WHOLE = [(2, 3, 5, 1), (2, 9, 0, 0), (0, 0, 1, 0)]
# Keep probabilities of the two joint blocks' masks: all on, one annealed, all off.
KEEP_PROBS = [(1.0, 1.0), (0.0, 1.0), (0.0, 0.0)]
VARIANTS: dict[str, dict[str, Any]] = {
    'registers': {},
    'rotary': dict(model_name='vit_small_patch16_dinov3'),
    'pooling head': dict(model_name='vit_base_patch16_siglip_224'),
    'first block frozen': dict(frozen_stages=1),
    'joint block frozen': dict(frozen_stages=2),
    'all frozen': dict(frozen_stages=3),
    'activation checkpointing': dict(with_cp=True),
}


@pytest.fixture(scope='module')
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of two processes, which need longer to start than for what they do."""
    folder = tmp_path_factory.mktemp('both')
    works: dict[str, Any] = dict(
        models=(model_results, (COUNTS, KEEP_PROBS, VARIANTS)),
        whole=(whole_results, (WHOLE,)),
        parted=(parted_results, (PARTED,)),
    )
    results = zip(*in_two_processes(folder, *works.values()), strict=True)
    return dict(zip(works, results, strict=True))


@pytest.fixture(scope='module')
def found(both: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    return both['models']


def whole_batch(nums: tuple[int, int], probs: tuple[float, float]) -> tuple[Tensor, dict[str, Tensor | None]]:
    return loss_and_gradients(make_model(), list(enumerate(nums)), probs)


@pytest.mark.slow
@pytest.mark.parametrize('probs', KEEP_PROBS)
@pytest.mark.parametrize('nums', COUNTS)
def test_two_processes_are_one_with_both_images(
    nums: tuple[int, int], probs: tuple[float, float], found: tuple[dict[str, Any], ...]
) -> None:
    losses, gradients = whole_batch(nums, probs)
    (first_losses, first), (second_losses, second) = (results['equal'][nums, probs] for results in found)
    torch.testing.assert_close((first_losses + second_losses) / 2, losses, rtol=0, atol=1e-9)
    assert gradients.keys() == first.keys() == second.keys()
    for name, gradient in gradients.items():
        assert gradient is not None and gradient.dtype == torch.float64
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], gradient, rtol=0, atol=1e-9)
    assert max(gradient.abs().max() for gradient in gradients.values()) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize('nums', COUNTS)
def test_published_class_norm_is_each_process_its_own(nums: tuple[int, int], found: tuple[dict[str, Any], ...]) -> None:
    """Each divides by its own sum of weights, which differs with the number of targets: the mean of the processes'
    class losses is not the class loss of all images. Mask losses do not differ."""
    (first, gradients), (second, _) = (results['local'][nums] for results in found)
    losses, expected = whole_batch(nums, KEEP_PROBS[-1])
    apart = ((first + second) / 2 - losses).abs().view(-1, 3)
    alike = min(nums[0], 6) == min(nums[1], 6)  # 6 queries
    assert (apart[:, 0] > 1e-3).all() or alike
    assert apart[:, 1:].max() < 1e-9
    off = max((gradient - expected[name]).abs().max() for name, gradient in gradients.items())
    assert off < 1e-9 if alike else off > 1e-4


@pytest.mark.slow
def test_every_parameter_is_seen_in_each_annealing_phase(found: tuple[dict[str, Any], ...]) -> None:
    """With an image without targets in one process."""
    for results in found:
        assert len(results['silent']) == 4 * len(VARIANTS)
        assert not [case for case, names in results['silent'].items() if names]


@pytest.mark.slow
def test_weights_stay_identical_in_both_processes(found: tuple[dict[str, Any], ...]) -> None:
    first, second = (results['weights'] for results in found)
    start = make_model().state_dict()
    assert first.keys() == second.keys() == start.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    for name, _ in make_model().named_parameters():
        assert not torch.equal(first[name], start[name]), name


# The criterion alone


@pytest.mark.slow
@pytest.mark.parametrize('nums', WHOLE)
def test_averaged_gradients_are_those_of_the_whole_batch(nums: tuple[int, ...], both: dict[str, Any]) -> None:
    """For the normalisers are averaged over the processes."""
    num_class_logits = 4 * Q * (K + 1)
    whole = gradients_of_logits(slice(0, 4), nums, True)
    if sum(nums) == 1:
        whole[num_class_logits:] /= 2
    halves = (gradients_of_logits(slice(0, 2), nums, True) + gradients_of_logits(slice(2, 4), nums, True)) / 2
    assert whole[num_class_logits:].abs().max() > 1e-3
    for results in both['whole']:
        synced, local = (results[nums, sync] for sync in (True, False))
        torch.testing.assert_close(synced, whole, rtol=0, atol=1e-6)
        torch.testing.assert_close(local[num_class_logits:], whole[num_class_logits:], rtol=0, atol=1e-6)
        torch.testing.assert_close(local[:num_class_logits], halves[:num_class_logits], rtol=0, atol=1e-6)
        assert (local - synced)[:num_class_logits].abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize('nums', PARTED)
def test_micro_batches_give_the_gradient_of_two_batches(nums: tuple[int, ...], both: dict[str, Any]) -> None:
    for results in both['parted']:
        for sync in (True, False):
            torch.testing.assert_close(results[nums, sync, 2], results[nums, sync, 1], rtol=0, atol=1e-12)
        if sum(nums) > 1:  # with one target in two processes the published normaliser is 1, not 1/2
            torch.testing.assert_close(results[nums, True, 2], gradient_of_parts(nums, [4]), rtol=0, atol=1e-12)


# Metrics


@pytest.fixture(scope='module')
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Metrics of 5 images, in one process and in two."""
    folder = tmp_path_factory.mktemp('measured')
    root = write_cityscapes(folder / 'root', num_train=1, num_val=5, size=(96, 192), progress=False)
    two = in_two_processes(folder, (metric_results, (root, folder / 'two')), start=in_copies)
    return dict(one=metric_results(root, folder / 'one'), two=[results for (results,) in two], folder=folder)


METRIC_NAMES = [metric['type'] for metrics in METRICS_OF.values() for metric in metrics]


@pytest.mark.parametrize('name', METRIC_NAMES)
def test_metrics_of_two_processes_are_those_of_one(name: str, measured: dict[str, Any]) -> None:
    """5 images: the sampler gives the first one to the second process as well."""
    numbers, _ = measured['one'][name]
    for results in measured['two']:
        assert results[name][0] == pytest.approx(numbers, rel=0, abs=0, nan_ok=True)
    main = next(iter(numbers.values()))
    assert 0.02 < main / (1 if main <= 1 else 100) < 0.98, numbers  # neither all right nor all wrong


@pytest.mark.parametrize('name', METRIC_NAMES)
def test_result_files_of_two_processes_are_those_of_one(name: str, measured: dict[str, Any]) -> None:
    one, two = (
        {path.relative_to(folder / name): path.read_bytes() for path in (folder / name).rglob('*') if path.is_file()}
        for folder in (measured['folder'] / 'one', measured['folder'] / 'two')
    )
    assert one.keys() == two.keys()
    assert one == two
    assert one
    assert not [path for path in two if '.part' in str(path)]


@pytest.mark.parametrize('name', METRIC_NAMES)
def test_an_image_is_gathered_as_few_bytes(name: str, measured: dict[str, Any]) -> None:
    """No map of 96 x 192 pixels is among what a process keeps of an image."""
    for results in (measured['one'], *measured['two']):
        assert results[name][1] < 6000


# Starting


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No launcher, no accelerator; what a test sets is gone after it."""
    for name in list(os.environ):
        if name.startswith(('SLURM_', 'OMPI_', 'TORCHELASTIC_')):
            monkeypatch.delenv(name)
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.setenv(name, '')  # remembered, so that what start_processes sets is gone, too
        monkeypatch.delenv(name)
    monkeypatch.setattr('eomt_mm.engine.processes.get_device', lambda: 'cpu')
    return monkeypatch


def alone(launcher: str) -> dict[str, str]:
    """Environment of the only process of a launcher."""
    port = str(free_port())
    return {
        'pytorch': dict(RANK='0', WORLD_SIZE='1', LOCAL_RANK='0', MASTER_ADDR='127.0.0.1', MASTER_PORT=port),
        'slurm': dict(SLURM_PROCID='0', SLURM_NTASKS='1', SLURM_LOCALID='0', MASTER_ADDR='127.0.0.1', MASTER_PORT=port),
        'mpi': dict(
            OMPI_COMM_WORLD_RANK='0', OMPI_COMM_WORLD_SIZE='1', OMPI_COMM_WORLD_LOCAL_RANK='0', MASTER_ADDR='127.0.0.1',
            MASTER_PORT=port,
        ),
    }[launcher]  # fmt: skip


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm', 'mpi'])
def test_gloo_without_accelerator(launcher: str, environment: pytest.MonkeyPatch) -> None:
    for name, value in {**alone(launcher), 'LOCAL_RANK': '0'}.items():
        environment.setenv(name, value)
    cfg = Config(dict(env_cfg=dict(dist_cfg=dict(backend='nccl', timeout=7))))
    try:
        start_processes(cfg, launcher)
        assert dist.get_backend() == 'gloo'
        assert (dist.get_rank(), dist.get_world_size()) == (0, 1)
    finally:
        dist.destroy_process_group()
    assert cfg.launcher == launcher
    assert cfg.env_cfg.dist_cfg == dict(backend='gloo', timeout=7)
    assert cfg.model_wrapper_cfg == dict(
        type='MMDistributedDataParallel', broadcast_buffers=False, find_unused_parameters=False, device_ids=None
    )


@pytest.mark.parametrize(
    'given, expected',
    [
        (dict(find_unused_parameters=True), dict(find_unused_parameters=True, broadcast_buffers=False)),
        (dict(model_wrapper_cfg=dict(static_graph=True)), dict(static_graph=True)),
    ],
)
def test_own_wrapper_settings_are_kept(given: Any, expected: Any, environment: pytest.MonkeyPatch) -> None:
    environment.setattr('eomt_mm.engine.processes._start_gloo', lambda timeout: None)
    for name, value in alone('pytorch').items():
        environment.setenv(name, value)
    cfg = Config(given)
    start_processes(cfg, 'pytorch')
    assert cfg.model_wrapper_cfg == dict(type='MMDistributedDataParallel', device_ids=None, **expected)


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm', 'mpi'])
def test_with_an_accelerator_mmengine_does_it(launcher: str, environment: pytest.MonkeyPatch) -> None:
    """But for LOCAL_RANK, which it reads with every launcher and only sets with slurm."""
    environment.setattr('eomt_mm.engine.processes.get_device', lambda: 'cuda')
    for name, value in alone(launcher).items():
        environment.setenv(name, value.replace('0', '3') if name.endswith(('LOCALID', 'LOCAL_RANK')) else value)
    cfg = Config(dict(env_cfg=dict(dist_cfg=dict(backend='nccl'))))
    start_processes(cfg, launcher)
    assert not dist.is_initialized()
    assert cfg.to_dict() == dict(env_cfg=dict(dist_cfg=dict(backend='nccl')), launcher=launcher)
    assert os.environ['LOCAL_RANK'] == '3'


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm', 'mpi'])
def test_missing_environment_is_named_with_the_command(launcher: str, environment: pytest.MonkeyPatch) -> None:
    command = dict(pytorch='dist_train.sh', slurm='slurm_train.sh', mpi='mpirun')[launcher]
    given = alone(launcher)
    for left_out in given:
        if left_out == 'MASTER_PORT' and launcher != 'pytorch':  # has a default
            continue
        for name, value in given.items():
            environment.setenv(name, value)
        environment.delenv(left_out)
        with pytest.raises(ValueError, match=f'--launcher {launcher}.* lacks {left_out}: .*{command}'):
            start_processes(Config(), launcher)
    assert not dist.is_initialized()


def test_torchrun_without_launcher_is_refused(environment: pytest.MonkeyPatch) -> None:
    cfg = Config()
    start_processes(cfg, 'none')
    assert cfg.launcher == 'none'
    environment.setenv('WORLD_SIZE', '2')
    start_processes(Config(), 'none')  # some clusters set it for single processes, too
    environment.setenv('TORCHELASTIC_RUN_ID', 'x')
    with pytest.raises(ValueError, match=r'2 processes.*Add --launcher pytorch'):
        start_processes(Config(), 'none')


def test_unknown_launcher_and_unfit_accelerator_are_named(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="launcher='jsrun': one of none, pytorch, slurm, mpi"):
        start_processes(Config(), 'jsrun')
    environment.setattr('eomt_mm.engine.processes.get_device', lambda: 'mps')
    with pytest.raises(ValueError, match='Apple GPU'):
        start_processes(Config(), 'pytorch')
