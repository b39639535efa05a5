"""EoMT in plain PyTorch and timm: backbone, network, head, masked attention, matcher, criterion, targets, geometry,
post-processing, augmentation, schedules. Reads no file and knows no host."""
