"""Runtime of every task; det.py and seg.py add the host."""
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='eomt_mm.RunLogHook', log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='eomt_mm.SafeCheckpointHook', by_epoch=False, interval=5000, max_keep_ckpts=2, save_last=True),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    checkpoint_fit=dict(type='eomt_mm.CheckpointFitHook'),
    mask_annealing=dict(type='eomt_mm.DefaultAnnealingHook'),
    stop=dict(type='eomt_mm.GracefulStopHook'),
    total_batch=dict(type='eomt_mm.TotalBatchHook'),
    query_limit=dict(type='eomt_mm.QueryLimitHook'),
    folder_check=dict(type='eomt_mm.FolderCheckHook'),
)
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=False)
vis_backends = [dict(type='LocalVisBackend')]
randomness = dict(seed=0)
log_level = 'INFO'
load_from = None
resume = False
