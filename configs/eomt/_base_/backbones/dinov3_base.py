_base_ = ['./dinov3.py']
backbone = dict(type='eomt_mm.TimmViT', model_name='vit_base_patch16_dinov3_qkvb', pretrained=True)
