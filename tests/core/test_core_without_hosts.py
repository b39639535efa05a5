"""The network, its losses and its rules for results are plain PyTorch: they run where no host is installed."""

import subprocess
import sys

PROGRAM = """
import sys
from importlib.abc import MetaPathFinder

HOSTS = ('mmcv', 'mmengine', 'mmdet', 'mmseg')

class NoHosts(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition('.')[0] in HOSTS:
            raise ImportError(f'{fullname} is blocked')

sys.meta_path.insert(0, NoHosts())
for host in HOSTS:
    try:
        __import__(host)
    except ImportError:
        pass
    else:
        raise SystemExit(f'{host} was imported: the test blocks nothing')

import torch
torch.set_num_threads(1)
from eomt_mm.core import backbone, criterion, geometry, head, network, postprocess

vit = backbone.PlainViT('vit_small_patch14_reg4_dinov2', 32, depth=2, embed_dim=16, num_heads=2)
eomt_head = head.EoMTHead(16, 2, 16, num_classes=3, num_queries=4, num_blocks=1)
images = geometry.Padding((50, 80), (20, 32), (32, 32)).apply(torch.rand(3, 20, 32))
target = dict(labels=torch.tensor([0, 2]), masks=torch.rand(2, 32, 32) > 0.5)
losses = criterion.Criterion(3, num_points=32)(*network.eomt_forward(vit, eomt_head.train(), images), [target])
sum(losses.values()).backward()
assert len(losses) == 6 and vit.vit.cls_token.grad.isfinite().all()

class_logits, mask_logits = network.eomt_forward(vit, eomt_head.eval(), images)
padding = geometry.Padding((50, 80), (20, 32), (32, 32))
segment_map, segments = postprocess.panoptic_prediction(
    class_logits[0][0], mask_logits[0][0], padding.invert, num_things=2, score_thr=0, overlap_thr=0
)
assert segment_map.shape == (50, 80)
assert not any(name.partition('.')[0] in HOSTS for name in sys.modules)
print('ran without hosts')
"""


def test_core_runs_without_hosts() -> None:
    result = subprocess.run([sys.executable, '-c', PROGRAM], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == 'ran without hosts'
