_base_ = ['../optimisation.py']
backbone = dict(type='eomt_mm.TimmViT', model_name='vit_small_patch14_reg4_dinov2', pretrained=True)
