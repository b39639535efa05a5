"""EoMT on DINOv2 and DINOv3 for the three tasks keeps the contract of architectures."""

from contract import ArchitectureContract, tiny
from paths import ROOT

CONFIGS = ROOT / 'configs' / 'eomt'


class TestPanopticDINOv2(ArchitectureContract):
    config = CONFIGS / 'coco' / 'eomt_dinov2-s_24e_coco-panoptic-640.py'
    options = tiny('panoptic_head')
    task = 'panoptic'


class TestPanopticDINOv3(TestPanopticDINOv2):
    config = CONFIGS / 'coco' / 'eomt_dinov3-s_24e_coco-panoptic-640.py'


class TestInstanceDINOv2(ArchitectureContract):
    config = CONFIGS / 'coco' / 'eomt_dinov2-s_12e_coco-instance-640.py'
    options = tiny('panoptic_head')
    task = 'instance'


class TestInstanceDINOv3(TestInstanceDINOv2):
    config = CONFIGS / 'coco' / 'eomt_dinov3-s_12e_coco-instance-640.py'


class TestSemanticDINOv2(ArchitectureContract):
    config = CONFIGS / 'ade20k' / 'eomt_dinov2-s_31e_ade20k-semantic-512.py'
    options = tiny('decode_head')
    task = 'semantic'


class TestSemanticDINOv3(TestSemanticDINOv2):
    config = CONFIGS / 'ade20k' / 'eomt_dinov3-s_16e_ade20k-semantic-512.py'
