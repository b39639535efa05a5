"""EVA-02 base as timm has it (masked image modelling on ImageNet-22k), with the optimisation of DINOv2."""

_base_ = ['../../../configs/eomt/_base_/backbones/dinov2.py']
backbone = dict(type='eomt_mm.TimmViT', model_name='eva02_base_patch14_224', pretrained=True)
