_base_ = ['../optimisation.py']
backbone = dict(type='eomt_mm.TimmViT', model_name='vit_large_patch16_dinov3_qkvb', pretrained=True)
