"""Weight names of Hugging Face's ``EomtForUniversalSegmentation`` and ``EomtDinov3ForUniversalSegmentation``.

Checked against transformers 5. In 4.x, only giant's packed gated MLP (``weights_in``, ``weights_out``) differs.
"""

from eomt_mm.checkpoints.backbones import hf_dinov2_block_rules, hf_dinov3_rules
from eomt_mm.checkpoints.rules import Rule, copy

IGNORED = ('criterion.empty_weight', 'embeddings.mask_token')

HEAD_RULES = (
    copy('query.weight', 'head.queries.weight'),
    copy('class_predictor.{p}', 'head.class_predictor.{p}'),
    copy('mask_head.fc1.{p}', 'head.mask_mlp.0.{p}'),
    copy('mask_head.fc2.{p}', 'head.mask_mlp.2.{p}'),
    copy('mask_head.fc3.{p}', 'head.mask_mlp.4.{p}'),
    copy('upscale_block.block.{k}.conv1.{p}', 'head.upscale.{k}.up.{p}'),
    copy('upscale_block.block.{k}.conv2.weight', 'head.upscale.{k}.conv.weight'),
    copy('upscale_block.block.{k}.layernorm2d.{p}', 'head.upscale.{k}.norm.{p}'),
    copy('attn_mask_probs', 'head.attn_mask_probs'),
)


def dinov2_rules(gated: bool) -> tuple[Rule, ...]:
    """Return the rules for EoMT with DINOv2.

    Args:
        gated: whether the MLP is giant's gated one with separate weights (transformers 5). The packed form is always
            read.
    """
    return (
        *HEAD_RULES,
        copy('embeddings.cls_token', 'backbone.vit.cls_token'),
        copy('embeddings.register_tokens', 'backbone.vit.reg_token'),
        Rule(('embeddings.position_embeddings.weight',), 'backbone.vit.pos_embed', 'unbatch'),
        copy('embeddings.patch_embeddings.projection.{p}', 'backbone.vit.patch_embed.proj.{p}'),
        *hf_dinov2_block_rules('layers.{i}.', gated, output='out_proj'),
        copy('layernorm.{p}', 'backbone.vit.norm.{p}'),
    )


def dinov3_rules(gated: bool) -> tuple[Rule, ...]:
    """Return the rules for EoMT with DINOv3.

    Args:
        gated: whether the MLP has a gate (huge+, 7B).
    """
    return (*HEAD_RULES, *hf_dinov3_rules('embeddings.', 'layers.', 'layernorm', gated))
