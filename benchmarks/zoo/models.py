"""Which models, and how one is built: a small member of every family, random weights, nothing downloaded."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from zoo import hugging_face

# One small member of every module of timm.models; two where one file holds several families.
TIMM = """
beit_base_patch16_224 halonet_h1 eca_botnext26ts_256 repvgg_a0 mobileone_s0 gernet_s cait_xxs24_224 coat_tiny
convit_tiny convmixer_768_32 convnext_atto cpubone_nano crossvit_tiny_240 csatv2 cs3darknet_focus_s cspnext_tiny
davit_tiny deepseek_vit_412m deit_tiny_distilled_patch16_224 densenet121 dla46x_c dpn48b edgenext_xx_small
efficientformer_l1 efficientformerv2_s0 mobilenetv2_050 efficientnet_b0 efficientvim_m1 efficientvit_b0
efficientvit_m0 vit_tiny_patch16_dinov3_qkvb eva02_tiny_patch14_224 fasternet_t0 fastvit_t8 fastvit_mci0
focalnet_tiny_srf gcvit_xxtiny gemma4_vit_167m ghostnet_050 ghostnetv2_100 ghostnetv3_050 hardcorenas_a hgnetv2_b0
hgnet_tiny hiera_tiny_224 sam2_hiera_tiny hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2
inception_v3 inception_v4 lcnet_050 lcnetv2_small levit_128s levit_conv_128s lowformer_b0 mambaout_femto
coatnet_nano_cc_224 maxvit_pico_rw_256 poolformerv2_s12 caformer_s18 gmlp_ti16_224 mixer_s32_224
mobilenetv3_small_050 mobilenetv4_conv_small mobilenetv5_base mobilevit_xxs mobilevitv2_050 mvitv2_tiny
naflexvit_base_patch16_parfac_gap nasnetalarge nest_tiny nextvit_small nf_regnet_b0 nf_seresnet26 pit_ti_224
pnasnet5large pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetx_002 regnety_002 repghostnet_050 repvit_m0_9 repvit_m1
res2net50_14w_8s res2next50 resnest14d resnet18 resnetv2_18 rexnet_100 selecsls42 legacy_seresnet18 sequencer2d_s
shvit_s1 skresnet18 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224 swinv2_tiny_window8_256
swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_legacy_patch16_224 tresnet_m twins_svt_small vgg11_bn visformer_tiny
vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vit_relpos_small_patch16_rpn_224 samvit_base_patch16_224
vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw xception xception41 xcit_nano_12_p8_224
""".split()
# Depth only repeats what the first blocks show.
SHALLOW = {
    name: {"depth": 2}
    for name in (
        "beit_base_patch16_224 deepseek_vit_412m gemma4_vit_167m naflexvit_base_patch16_parfac_gap qwen3_vit_88m "
        "samvit_base_patch16_224"
    ).split()
}
TORCHVISION = """
alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5
mobilenet_v2 mobilenet_v3_small mobilenet_v3_large regnet_x_400mf regnet_y_400mf resnet18 resnet50 resnext50_32x4d
wide_resnet50_2 shufflenet_v2_x0_5 squeezenet1_1 swin_t swin_v2_t vgg11_bn vit_b_32 deeplabv3_mobilenet_v3_large
deeplabv3_resnet50 fcn_resnet50 lraspp_mobilenet_v3_large fasterrcnn_mobilenet_v3_large_320_fpn
fasterrcnn_resnet50_fpn fasterrcnn_resnet50_fpn_v2 fcos_resnet50_fpn keypointrcnn_resnet50_fpn maskrcnn_resnet50_fpn
retinanet_resnet50_fpn retinanet_resnet50_fpn_v2 ssd300_vgg16 ssdlite320_mobilenet_v3_large r3d_18 mc3_18
r2plus1d_18 s3d mvit_v1_b mvit_v2_s swin3d_t
""".split()
ULTRALYTICS = """
yolov3-tiny yolov3 yolov3-spp yolov5n yolov5n-p6 yolov6n yolov8n yolov8n-cls yolov8-cls-resnet50 yolov8n-seg
yolov8n-pose yolov8n-obb yolov8n-ghost yolov8n-ghost-p2 yolov8n-ghost-p6 yolov8n-p2 yolov8n-p6 yolov8n-seg-p6
yolov8n-pose-p6 yolov8n-rtdetr yolov8n-world yolov8n-worldv2 yoloe-v8n yoloe-v8n-seg yolov9t yolov9s yolov9c
yolov9c-seg yolov9e yolov10n yolov10b yolo11n yolo11n-cls yolo11n-seg yolo11n-pose yolo11n-obb
yoloe-11n yoloe-11n-seg yolo12n yolo12n-cls yolo12n-seg yolo12n-pose yolo12n-obb yolo26n yolo26n-cls yolo26n-seg
yolo26n-pose yolo26n-obb yolo26n-p2 yolo26n-p6 yolo26n-depth yolo26n-sem yoloe-26n yoloe-26n-seg rtdetr-l
rtdetr-resnet50
""".split()


@dataclass(frozen=True)
class Built:
    """A model and what it is run on.

    Attributes:
        model: in eval mode.
        inputs: positional arguments, or a dict of keyword arguments, in float64.
        fresh: builds another one.
        own: the package's own converter, where it has one.
        default_dtype: whether it computes in float64 only where that is the default.
    """

    model: nn.Module
    inputs: Any
    fresh: Callable[[], nn.Module]
    own: Callable[[nn.Module], nn.Module] | None = None
    default_dtype: bool = False


def specs() -> list[str]:
    """Names of all models."""
    groups = {
        "timm": TIMM,
        "torchvision": TORCHVISION,
        "ultralytics": ULTRALYTICS,
        "transformers": hugging_face.names(),
    }
    return [f"{library}:{name}" for library, names in groups.items() for name in names]


def build(spec: str) -> Built:
    """The model of a spec, `library:name`."""
    library, _, name = spec.partition(":")
    builders = {"timm": _timm, "torchvision": _torchvision, "ultralytics": _ultralytics, "transformers": _transformers}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the libraries warn of changes with every release
        return builders[library](name)


def _seeded(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return make().eval()

    return fresh


def images(*shape: int) -> torch.Tensor:
    """Random images in float64, the same every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _timm(name: str) -> Built:
    import timm
    from timm.utils.model import reparameterize_model

    fresh = _seeded(lambda: timm.create_model(name, **SHALLOW.get(name, {})))
    model: Any = fresh()
    size = model.pretrained_cfg["input_size"]
    return Built(model, (images(1, *size),), fresh, reparameterize_model)


def _torchvision(name: str) -> Built:
    from torchvision import models

    detects = {"fasterrcnn": "box_", "keypointrcnn": "box_", "maskrcnn": "box_", "retinanet": "", "fcos": "", "ssd": ""}
    prefix = next((p for kind, p in detects.items() if name.startswith(kind)), None)
    options: dict[str, Any] = {"weights": None}
    if prefix is not None or name.startswith(("deeplab", "fcn", "lraspp")):
        options["weights_backbone"] = None
    if prefix is not None:
        options[f"{prefix}score_thresh"] = 0.0  # random scores are low, and nothing found would prove nothing
        if not name.startswith("ssd"):
            options |= {"min_size": 160, "max_size": 256}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = True
    fresh = _seeded(lambda: models.get_model(name, **options))
    return Built(fresh(), _torchvision_inputs(name, prefix is not None), fresh)


def _torchvision_inputs(name: str, detects: bool) -> Any:
    if detects:
        return ([images(3, 160, 192).sigmoid()],)
    if name in ("r3d_18", "mc3_18", "r2plus1d_18", "swin3d_t"):
        return (images(1, 3, 8, 64, 64),)
    if name.startswith(("s3d", "mvit")):
        return (images(1, 3, 16, 224, 224),)
    if name == "inception_v3":
        return (images(1, 3, 299, 299),)
    fixed = name.startswith(("vit", "maxvit", "swin", "alexnet", "vgg"))
    return (images(1, 3, 224, 224) if fixed else images(1, 3, 128, 160),)


def _ultralytics(name: str) -> Built:
    from ultralytics import RTDETR, YOLO, YOLOE, YOLOWorld

    maker: Any = YOLO
    if name.startswith("rtdetr") or name.endswith("rtdetr"):
        maker = RTDETR
    elif name.startswith("yoloe"):
        maker = YOLOE
    elif "world" in name:
        maker = YOLOWorld
    fresh = _seeded(lambda: maker(f"{name}.yaml").model)
    model: Any = fresh()
    x = images(1, 3, 224, 224) if name.split("-")[-1] == "cls" else images(1, 3, 192, 256)
    return Built(model, (x,), fresh, lambda m: m.fuse(verbose=False))


def _transformers(name: str) -> Built:
    fresh = _seeded(lambda: hugging_face.model(name))
    model = fresh()
    return Built(model, hugging_face.inputs(name, model), fresh, default_dtype=name in hugging_face.DEFAULT_DTYPE)
