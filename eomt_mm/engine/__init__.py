"""Training loop, hooks, schedules and optimiser constructors for mmengine's runner."""

from typing import Any

from eomt_mm.public import load, names_of

PUBLIC = {
    'checkpoint_fit': ('CheckpointFitHook',),
    'checkpointing': ('SafeCheckpointHook',),
    'folder_check': ('FolderCheckHook',),
    'guard': ('NonFiniteGuardHook',),
    'layer_decay': ('LayerDecayOptimWrapperConstructor',),
    'layer_metrics': ('LayerMetricsHook',),
    'mask_annealing': ('MaskAnnealingHook',),
    'pictures': ('PictureHook',),
    'query_limit': ('QueryLimitHook',),
    'run_log': ('RunLogHook',),
    'schedule': ('TwoStagePolyLR',),
    'stop': ('GracefulStopHook',),
    'total_batch': ('TotalBatchHook',),
    'train_loop': ('TrainLoop',),
}
__all__ = names_of(PUBLIC)


def __getattr__(name: str) -> Any:
    return load(__name__, PUBLIC, name)
