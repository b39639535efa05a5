"""Runtime of the semantic task (mmseg)."""
_base_ = ['./common.py']
default_scope = 'mmseg'
visualizer = dict(type='SegLocalVisualizer', vis_backends=_base_.vis_backends, name='visualizer')
