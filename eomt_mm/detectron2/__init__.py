"""EoMT for detectron2: data, evaluation and checkpoints; imports no package of OpenMMLab."""
