_base_ = ['./dinov2.py']
backbone = dict(type='eomt_mm.TimmViT', model_name='vit_giant_patch14_reg4_dinov2', pretrained=True)
