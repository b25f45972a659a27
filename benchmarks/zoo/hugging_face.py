"""Vision families of transformers that have convolutions, from small configurations; no weights, no downloads."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Family:
    """How one model of a family is made.

    Attributes:
        cls: the model's class in `transformers`.
        size: of the image, height and width.
        options: of the configuration; what is not named keeps its default.
        given: shapes of the arguments, where it is not given images.
    """

    cls: str
    size: tuple[int, int] = (96, 128)
    options: dict[str, Any] = field(default_factory=dict)
    given: dict[str, tuple[int, ...]] = field(default_factory=dict)


# Make tensors of the default dtype on the way, so that alone decides what they compute in.
DEFAULT_DTYPE = ("dab-detr",)
_SQUARE = (224, 224)
_TWO = {"num_hidden_layers": 2}
_DETR = {"encoder_layers": 1, "decoder_layers": 2, "num_queries": 20}

_UVDOC = {"model_type": "uvdoc_backbone", "out_features": [f"stage{i}" for i in range(1, 7)]}
_VITDET = {
    "model_type": "vitdet",
    "num_hidden_layers": 2,
    "hidden_size": 48,
    "num_attention_heads": 4,
    "image_size": 128,
    "pretrain_image_size": 128,
    "num_channels": 4,
    "out_features": ["stage2"],
}
_VITMATTE = {
    "backbone_config": _VITDET,
    "hidden_size": 48,
    "convstream_hidden_sizes": [12, 24, 48],
    "fusion_hidden_sizes": [64, 32, 16, 8],
}
_SPEECH = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16, 16, 16),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_CONFORMER = {"num_layers": 2, "hidden_dim": 32, "input_dim": 16, "num_heads": 2, "dim_head": 16, "output_dim": 10}

FAMILIES: dict[str, Family] = {
    "align_vision_model": Family(
        "AlignVisionModel", options={"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 320}
    ),
    "beit": Family("BeitForImageClassification", _SQUARE, _TWO),
    "bit": Family("BitForImageClassification"),
    "clip_vision_model": Family("CLIPVisionModel", _SQUARE, _TWO),
    "conditional_detr": Family("ConditionalDetrForObjectDetection", options=_DETR),
    "convnext": Family("ConvNextForImageClassification"),
    "convnextv2": Family("ConvNextV2ForImageClassification"),
    "cvt": Family("CvtForImageClassification", _SQUARE),
    "d_fine": Family("DFineForObjectDetection", (160, 192), {"num_queries": 20}),
    "dab-detr": Family("DabDetrForObjectDetection", options=_DETR),
    "data2vec-vision": Family("Data2VecVisionForImageClassification", _SQUARE, _TWO),
    "deformable_detr": Family("DeformableDetrForObjectDetection", options=_DETR),
    "deimv2": Family("Deimv2ForObjectDetection", (160, 192), {"num_queries": 20}),
    "deit": Family("DeiTForImageClassification", _SQUARE, _TWO),
    "depth_anything": Family("DepthAnythingForDepthEstimation", (98, 126)),
    "detr": Family("DetrForObjectDetection", options=_DETR),
    "dinov2": Family("Dinov2ForImageClassification", (98, 126), _TWO),
    "dinov3_convnext": Family("DINOv3ConvNextModel"),
    "dpt": Family("DPTForDepthEstimation", (128, 128), {"image_size": 128, "num_hidden_layers": 12}),
    "efficientloftr": Family("EfficientLoFTRModel", (96, 128)),
    "efficientnet": Family(
        "EfficientNetForImageClassification",
        options={"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280},
    ),
    "focalnet": Family("FocalNetForImageClassification", _SQUARE),
    "glpn": Family("GLPNForDepthEstimation"),
    "granite_speech_encoder": Family(
        "GraniteSpeechCTCEncoder",
        options={**_CONFORMER, "context_size": 20, "max_pos_emb": 32},
        given={"hidden_states": (1, 40, 16)},
    ),
    "hgnet_v2": Family("HGNetV2ForImageClassification"),
    "hiera": Family("HieraForImageClassification", _SQUARE),
    "hubert": Family(
        "HubertModel", options={**_SPEECH, "conv_pos_batch_norm": True}, given={"input_values": (1, 4000)}
    ),
    "ijepa": Family("IJepaForImageClassification", _SQUARE, _TWO),
    "levit": Family("LevitForImageClassification", _SQUARE),
    "lw_detr": Family("LwDetrForObjectDetection", (256, 256), {"projector_scale_factors": [2.0, 0.5]}),
    "mask2former": Family("Mask2FormerForUniversalSegmentation", _SQUARE, {"encoder_layers": 1, "decoder_layers": 3}),
    "maskformer": Family("MaskFormerForInstanceSegmentation", (384, 384)),
    "mobilenet_v1": Family("MobileNetV1ForImageClassification"),
    "mobilenet_v2": Family("MobileNetV2ForImageClassification"),
    "mobilenet_v2_segmentation": Family("MobileNetV2ForSemanticSegmentation"),
    "mobilevit": Family("MobileViTForImageClassification", (128, 128)),
    "mobilevit_segmentation": Family("MobileViTForSemanticSegmentation", (128, 128)),
    "mobilevitv2": Family("MobileViTV2ForImageClassification", (128, 128)),
    "omdet-turbo": Family("OmDetTurboForObjectDetection", (640, 640), {"num_queries": 20}),
    "poolformer": Family("PoolFormerForImageClassification"),
    "pp_doclayout_v2": Family(
        "PPDocLayoutV2ForObjectDetection",
        (160, 160),
        {"class_thresholds": [0.5] * 25, "class_order": list(range(25))},
    ),
    "pp_doclayout_v3": Family("PPDocLayoutV3ForObjectDetection", (160, 160)),
    "pp_doclayout_v4": Family("PPDocLayoutV4ForObjectDetection", (160, 160)),
    "pp_lcnet": Family("PPLCNetForImageClassification"),
    "pp_lcnet_v3": Family("PPLCNetV3Backbone"),
    "pp_lcnet_v4": Family("PPLCNetV4Backbone"),
    "pp_ocrv5_mobile_det": Family("PPOCRV5MobileDetForObjectDetection"),
    "pp_ocrv5_mobile_rec": Family("PPOCRV5MobileRecModel", (96, 160)),
    "pp_ocrv5_server_rec": Family("PPOCRV5ServerRecModel", (48, 160)),
    "pp_ocrv6_small_rec": Family("PPOCRV6SmallRecModel", (48, 160)),
    "prompt_depth_anything": Family("PromptDepthAnythingForDepthEstimation", (98, 126)),
    "pvt": Family("PvtForImageClassification", _SQUARE),
    "pvt_v2": Family("PvtV2ForImageClassification"),
    "regnet": Family("RegNetForImageClassification"),
    "resnet": Family("ResNetForImageClassification"),
    "rf_detr": Family("RfDetrForObjectDetection", (224, 224), {"num_queries": 20}),
    "rt_detr": Family("RTDetrForObjectDetection", (160, 192), {"num_queries": 20}),
    "rt_detr_v2": Family("RTDetrV2ForObjectDetection", (160, 192), {"num_queries": 20}),
    "segformer": Family("SegformerForSemanticSegmentation"),
    "siglip_vision_model": Family("SiglipVisionModel", _SQUARE, _TWO),
    "superpoint": Family("SuperPointForKeypointDetection"),
    "swiftformer": Family("SwiftFormerForImageClassification", _SQUARE),
    "swin": Family("SwinForImageClassification", _SQUARE),
    "swin2sr": Family("Swin2SRForImageSuperResolution", (64, 64)),
    "swinv2": Family("Swinv2ForImageClassification", _SQUARE),
    "table-transformer": Family("TableTransformerForObjectDetection", options=_DETR),
    "textnet": Family("TextNetForImageClassification"),
    "upernet": Family("UperNetForSemanticSegmentation"),
    "uvdoc": Family("UVDocModel", (128, 128), {"backbone_config": _UVDOC}),
    "vit": Family("ViTForImageClassification", _SQUARE, _TWO),
    "vit_mae": Family("ViTMAEModel", _SQUARE, {**_TWO, "mask_ratio": 0.0}),
    "vitdet": Family("VitDetBackbone", _SQUARE, _TWO),
    "vitmatte": Family("VitMatteForImageMatting", (128, 128), _VITMATTE),
    "vitpose": Family("VitPoseForPoseEstimation", (256, 192)),
    "wav2vec2-conformer": Family("Wav2Vec2ConformerModel", options=_SPEECH, given={"input_values": (1, 4000)}),
    "yolos": Family("YolosForObjectDetection", (512, 864), _TWO),
}


def names() -> list[str]:
    """All families."""
    return list(FAMILIES)


def model(name: str) -> nn.Module:
    """The model of a family, with random weights."""
    transformers: Any = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    family = FAMILIES[name]
    cls = getattr(transformers, family.cls)
    made: nn.Module = cls(cls.config_class(**family.options))
    return made


def inputs(name: str, model: Any) -> dict[str, torch.Tensor]:
    """Keyword arguments for its forward, images in float64."""
    family = FAMILIES[name]
    generator = torch.Generator().manual_seed(1)
    if family.given:
        return {k: torch.rand(v, generator=generator, dtype=torch.float64) for k, v in family.given.items()}
    channels = 4 if name == "vitmatte" else 3
    shape = (1 if max(family.size) > 300 else 2, channels, *family.size)
    if name == "efficientloftr":
        shape = (1, 2, 3, *family.size)
    found = {"pixel_values": torch.randn(shape, generator=generator, dtype=torch.float64)}
    if name == "prompt_depth_anything":
        found["prompt_depth"] = torch.rand((2, 1, 24, 32), generator=generator, dtype=torch.float64)
    if name == "omdet-turbo":
        found |= _texts()
    return found


def _texts() -> dict[str, torch.Tensor]:
    """Two classes of two tokens and one task of two, for OmDet-Turbo."""
    ids = torch.tensor([[49406, 320], [49406, 49407]])
    mask = torch.ones_like(ids)
    return {
        "classes_input_ids": ids,
        "classes_attention_mask": mask,
        "tasks_input_ids": ids[:1],
        "tasks_attention_mask": mask[:1],
        "classes_structure": torch.tensor([2]),
    }
