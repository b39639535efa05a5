"""Runtime of the instance and panoptic tasks (mmdet)."""
_base_ = ['./common.py']
default_scope = 'mmdet'
visualizer = dict(type='DetLocalVisualizer', vis_backends=_base_.vis_backends, name='visualizer')
