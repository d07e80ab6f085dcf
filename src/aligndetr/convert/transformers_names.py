"""Names of tensors in Hugging Face transformers (versions 4 and 5), and ours."""

from aligndetr.convert.names import DAB_PLACES, DEFORMABLE_PARTS, LAYER_HEADS, Renames

_LAYERS: Renames = (
    (r"^model\.(?=encoder|decoder|backbone)", ""),
    (r"\.(mlp\.)?fc1\.", ".feedforward.expand."),
    (r"\.(mlp\.)?fc2\.", ".feedforward.contract."),
    (r"\.(mlp\.)?final_layer_norm", ".feedforward.norm"),
    (r"\.(mlp\.)?activation_fn\.", ".feedforward.activation."),
    (r"^(decoder.*)encoder_attn_layer_norm", r"\1norm"),
    (r"^(decoder.*\d\.)self_attn_layer_norm", r"\1self_attention.norm"),
    (r"^decoder\.layernorm", "decoder.norm"),
)
_PACKED_SELF_ATTENTION: Renames = (
    (r"^(encoder.*)self_attn\.q_proj\.(\w+)$", r"\1attention.in_proj.\2@0of3"),
    (r"^(encoder.*)self_attn\.k_proj\.(\w+)$", r"\1attention.in_proj.\2@1of3"),
    (r"^(encoder.*)self_attn\.v_proj\.(\w+)$", r"\1attention.in_proj.\2@2of3"),
    (r"^(encoder.*)self_attn\.(o|out)_proj", r"\1attention.out_proj"),
    (r"^(decoder.*)self_attn\.q_proj\.(\w+)$", r"\1self_attention.in_proj.\2@0of3"),
    (r"^(decoder.*)self_attn\.k_proj\.(\w+)$", r"\1self_attention.in_proj.\2@1of3"),
    (r"^(decoder.*)self_attn\.v_proj\.(\w+)$", r"\1self_attention.in_proj.\2@2of3"),
    (r"^(decoder.*)self_attn\.(o|out)_proj", r"\1self_attention.out_proj"),
)
_DENSE: Renames = (
    *_LAYERS,
    (r"^(encoder.*)self_attn_layer_norm", r"\1attention.norm"),
    (r"^model\.input_projection\.", "neck.projections.0.0."),
    (r"^class_labels_classifier", "decoder.heads.0.classes"),
    (r"^bbox_predictor", "decoder.heads.0.box"),
)

DETR: Renames = (
    *_DENSE,
    *_PACKED_SELF_ATTENTION,
    (r"encoder_attn\.q_proj", "cross_attention.attention.query"),
    (r"encoder_attn\.k_proj", "cross_attention.attention.key"),
    (r"encoder_attn\.v_proj", "cross_attention.attention.value"),
    (r"encoder_attn\.(o|out)_proj", "cross_attention.attention.output"),
    (r"^model\.query_position_embeddings\.weight", "queries.position"),
)
"""`DetrForObjectDetection`."""

_CONTENT_AND_PLACE: Renames = (
    (r"^(decoder.*)(self_attn\.q_content|sa_qcontent)_proj", r"\1self_attention.query"),
    (r"^(decoder.*)(self_attn\.q_pos|sa_qpos)_proj", r"\1self_attention.query_position"),
    (r"^(decoder.*)(self_attn\.k_content|sa_kcontent)_proj", r"\1self_attention.key"),
    (r"^(decoder.*)(self_attn\.k_pos|sa_kpos)_proj", r"\1self_attention.key_position"),
    (r"^(decoder.*)(self_attn\.v|sa_v)_proj", r"\1self_attention.value"),
    (r"(encoder_attn\.q_content|ca_qcontent)_proj", "cross_attention.attention.query"),
    (r"(encoder_attn\.q_pos_sine|ca_qpos_sine)_proj", "cross_attention.attention.query_place"),
    (r"(encoder_attn\.q_pos|ca_qpos)_proj", "cross_attention.attention.query_position"),
    (r"(encoder_attn\.k_content|ca_kcontent)_proj", "cross_attention.attention.key"),
    (r"(encoder_attn\.k_pos|ca_kpos)_proj", "cross_attention.attention.key_position"),
    (r"(encoder_attn\.v|ca_v)_proj", "cross_attention.attention.value"),
    (r"encoder_attn\.(o|out)_proj", "cross_attention.attention.output"),
)

CONDITIONAL: Renames = (
    *_DENSE,
    *_CONTENT_AND_PLACE,
    *_PACKED_SELF_ATTENTION,
    (r"^decoder\.query_scale", "decoder.places.guide.scale"),
    (r"^decoder\.ref_point_head", "queries.point"),
    (r"^model\.query_position_embeddings\.weight", "queries.position"),
)
"""`ConditionalDetrForObjectDetection`."""

DAB: Renames = (
    *_LAYERS,
    (r"^(encoder.*)self_attn_layer_norm", r"\1attention.norm"),
    (r"\.self_attn\.self_attn_layer_norm", ".self_attention.norm"),
    (r"\.self_attn\.self_attn_query_content_proj", ".self_attention.query"),
    (r"\.self_attn\.self_attn_query_pos_proj", ".self_attention.query_position"),
    (r"\.self_attn\.self_attn_key_content_proj", ".self_attention.key"),
    (r"\.self_attn\.self_attn_key_pos_proj", ".self_attention.key_position"),
    (r"\.self_attn\.self_attn_value_proj", ".self_attention.value"),
    (r"\.self_attn\.self_attn\.output_proj", ".self_attention.out_proj"),
    (r"\.cross_attn\.cross_attn_layer_norm", ".norm"),
    (r"\.cross_attn\.cross_attn_query_content_proj", ".cross_attention.attention.query"),
    (r"\.cross_attn\.cross_attn_query_pos_sine_proj", ".cross_attention.attention.query_place"),
    (r"\.cross_attn\.cross_attn_query_pos_proj", ".cross_attention.attention.query_position"),
    (r"\.cross_attn\.cross_attn_key_content_proj", ".cross_attention.attention.key"),
    (r"\.cross_attn\.cross_attn_key_pos_proj", ".cross_attention.attention.key_position"),
    (r"\.cross_attn\.cross_attn_value_proj", ".cross_attention.attention.value"),
    (r"\.cross_attn\.cross_attn\.output_proj", ".cross_attention.attention.output"),
    *_PACKED_SELF_ATTENTION,
    *DAB_PLACES,
    (r"^(decoder\.bbox_embed|bbox_predictor)\.", "decoder.heads.0.box."),
    (r"^class_embed\.", "decoder.heads.0.classes."),
    (r"^model\.input_projection\.", "neck.projections.0.0."),
    (r"^model\.query_refpoint_embeddings\.weight", "queries.boxes"),
)
"""`DabDetrForObjectDetection`."""

DEFORMABLE: Renames = (
    *_LAYERS,
    *DEFORMABLE_PARTS,
    (r"^(encoder.*\d\.)self_attn_layer_norm", r"\1norm"),
    (r"^(encoder.*)self_attn\.", r"\1attention."),
    (r"encoder_attn\.", "cross_attention.attention."),
    *_PACKED_SELF_ATTENTION,
    (r"^model\.input_proj\.", "neck.projections."),
    (r"^model\.level_embed$", "neck.level"),
    (r"^model\.reference_points\.", "queries.point.layers.0."),
    (r"^model\.query_position_embeddings\.weight", "queries.both"),
    (r"^model\.enc_output_norm", "queries.norm"),
    (r"^model\.enc_output", "queries.project"),
    (r"^model\.pos_trans_norm", "queries.embedding.norm"),
    (r"^model\.pos_trans", "queries.embedding.project"),
    *LAYER_HEADS,
)
"""`DeformableDetrForObjectDetection`."""
