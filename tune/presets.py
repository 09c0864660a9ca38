"""Presets: config values of trial 0, the untuned default, that differ from the config's own
defaults. Each preset lies within the space of its experiment.

`tiny` is for minutes on a CPU with the data shipped with vistune, `full` for a GPU and a folder of
images.
"""

from typing import Any

Values = dict[str, Any]
"""Flat config values."""
Presets = dict[str, Values]

# Experiments pass their backbones on, so all use the same one. Only the grid to which feature maps
# are pooled depends on the experiment (pooling has no weights).
_LAYOUT: Values = {"backbone.pool": 2}
TINY: Values = {
    "data.name": "glyphs",
    "data.image_size": 28,
    "backbone.name": "tiny",
    "backbone.width": 16,
    "train.channels_last": True,
}
# bfloat16 if the GPU supports it: `trainables/engine/numerics.py`.
FULL: Values = {
    "data.image_size": 128,
    "backbone.name": "resnet50",
    "train.threads": 1,
    "train.numerics": "auto",
}

# The untuned default at 128 px is what a reader of the papers would start from: the optimizer of
# the package's own example (Adam 3e-4), and the views, momentum and heads of Grill et al. 2020.
_UNTUNED: Values = {
    "optim.name": "adam",
    "optim.lr": 3e-4,
    "optim.weight_decay": 1e-6,
    "schedule.name": "warmup_cosine",
    "schedule.warmup_frac": 0.1,
    "head.tau0": 0.99,
    "head.simplicial": False,
    "aug.policy": "byol",
    "aug.crop_scale_min": 0.08,
    "aug.crop_ratio": 4 / 3,
}
# For a few hundred steps on letters, found on validation letters (docs/notes/ssl.md): SimCLR's
# jitter and blur, crops that keep a letter recognizable, small heads, and a target that follows
# quickly.
_LETTERS: Values = {
    "optim.name": "adamw",
    "optim.lr": 2.5e-3,
    "optim.weight_decay": 1e-2,
    "schedule.name": "warmup_cosine",
    "schedule.warmup_frac": 0.1,
    "head.projection_size": 128,
    "head.hidden_size": 512,
    "normalize": "half",
    "aug.policy": "simclr",
    "aug.crop_scale_min": 0.9,
    "aug.crop_ratio": 4 / 3,
    "aug.strength": 1.0,
    "aug.rotate": 15.0,
}
_UNTUNED_LETTERS: Values = _LETTERS | {"head.tau0": 0.97, "head.simplicial": False}
# Images, epochs and evaluation that all self-supervised methods share.
_SSL_TINY: Values = TINY | {
    # the gallery has 3 to 11 drawings of each letter, so further neighbours are mostly other
    # letters
    "val.knn_k": 5,
    # fitting the probe to 1,024 features takes longer than an epoch
    "val.probe_steps": 0,
    # the whole last map: the position of a stroke distinguishes letters
    "backbone.pool": 4,
    "train.epochs": 12,
    "train.epoch_images": 1024,
    "train.batch_size": 32,
}
_SSL_FULL: Values = FULL | {
    "aug.strength": 1.0,
    "aug.grayscale": 0.2,
    "aug.blur": None,
    "train.epochs": 100,
    "train.batch_size": 256,
}
# The other methods at 128 px: each paper's own views, and its optimizer scaled to a batch of 256.
_PAPERS: Values = {
    "schedule.name": "warmup_cosine",
    "schedule.warmup_frac": 0.1,
    "aug.crop_ratio": 4 / 3,
}

SSL: Presets = {
    "tiny": _UNTUNED_LETTERS | _SSL_TINY,
    "full": _UNTUNED | _SSL_FULL | {"head.projection_size": 256, "head.hidden_size": 4096},
}

SIMCLR: Presets = {
    "tiny": _LETTERS | _SSL_TINY | {"head.temperature": 0.2, "train.batch_size": 64},
    "full": _PAPERS
    | _SSL_FULL
    | {
        "optim.name": "lars",
        "optim.lr": 0.3,
        "optim.weight_decay": 1e-6,
        "aug.policy": "simclr",
        "aug.crop_scale_min": 0.08,
        "head.projection_size": 128,
        "head.hidden_size": 2048,
        "head.temperature": 0.1,
    },
}

MOCO: Presets = {
    "tiny": _LETTERS
    | _SSL_TINY
    | {"head.temperature": 0.2, "head.queue": 1024, "head.momentum": 0.97},
    "full": _PAPERS
    | _SSL_FULL
    | {
        "optim.name": "sgd",
        "optim.lr": 0.03,
        "optim.weight_decay": 1e-4,
        "aug.policy": "simclr",
        # SimCLR's jitter at half strength: .4, .4, .4, .1 in the code of MoCo v2
        "aug.strength": 0.5,
        "aug.crop_scale_min": 0.2,
        "head.projection_size": 128,
        "head.hidden_size": 2048,
        "head.temperature": 0.2,
        "head.queue": 65536,
        "head.momentum": 0.999,
    },
}

VICREG: Presets = {
    "tiny": _LETTERS | _SSL_TINY | {"head.projection_size": 512, "train.batch_size": 64},
    "full": _PAPERS
    | _SSL_FULL
    | {
        "optim.name": "lars",
        "optim.lr": 0.2,
        "optim.weight_decay": 1e-6,
        "aug.policy": "byol",
        "aug.crop_scale_min": 0.08,
        "head.projection_size": 8192,
        "head.hidden_size": 8192,
    },
}

DINO: Presets = {
    "tiny": _LETTERS
    | _SSL_TINY
    | {"optim.lr": 1e-3, "head.projection_size": 1024, "head.tau0": 0.97},
    "full": _PAPERS
    | _SSL_FULL
    | {
        "optim.name": "adamw",
        "optim.lr": 5e-4,
        "optim.weight_decay": 0.04,
        "aug.policy": "byol",
        "aug.crop_scale_min": 0.4,
        "head.projection_size": 65536,
        "head.hidden_size": 2048,
        "head.local_views": 6,
        "head.tau0": 0.996,
    },
}

# Supervised: the course reports' Adam 5e-4, a linear head, and a learning rate that decays to 0.
_UNTUNED_SUPERVISED: Values = {
    "optim.name": "adam",
    "optim.lr": 5e-4,
    "optim.weight_decay": 1e-6,
    "schedule.name": "cosine",
    "aug.policy": "none",
}

# A small network trained from scratch for a few hundred steps needs ten times that rate. The rate
# was found on letters that no study of `classify` evaluates on (benchmarks/classify_default.py,
# docs/notes/training.md). Weight decay and warm-up follow Loshchilov & Hutter 2019 and Goyal et al.
# 2017.
_SUPERVISED_TINY: Values = {
    "optim.name": "adamw",
    "optim.lr": 5e-3,
    "optim.weight_decay": 0.05,
    "schedule.name": "warmup_cosine",
    "schedule.warmup_frac": 0.1,
    "aug.policy": "none",
}

PRETRAIN: Presets = {
    "tiny": _SUPERVISED_TINY
    | TINY
    | {
        **_LAYOUT,
        "aug.crop_scale_min": 0.8,
        "aug.rotate": 0.0,
        # the first rung is at a sixth of the epochs; within three epochs few trials learn anything
        "train.epochs": 24,
        "train.epoch_images": 3200,
        "train.batch_size": 64,
    },
    "full": _UNTUNED_SUPERVISED
    | FULL
    | {
        "aug.crop_scale_min": 0.25,
        "aug.hflip": 0.5,
        "aug.strength": 1.0,
        "train.epochs": 100,
        "train.batch_size": 128,
    },
}

CLASSIFY: Presets = {
    "tiny": _SUPERVISED_TINY
    | TINY
    | {
        **_LAYOUT,
        "aug.crop_scale_min": 0.8,
        "aug.rotate": 0.0,
        "train.epochs": 12,
        "train.batch_size": 32,
    },
    "full": _UNTUNED_SUPERVISED
    | FULL
    | {
        "aug.crop_scale_min": 0.25,
        "aug.hflip": 0.5,
        "aug.strength": 1.0,
        "train.epochs": 50,
        "train.batch_size": 64,
    },
}

# Few-shot: Adam 1e-3, halved at intervals (Snell et al. 2017, section 3), and the course reports'
# Conv-4. Cosine with a learned scale (Gidaris & Komodakis 2018, section 3.2) instead of the squared
# Euclidean distance, which is as good only after tuning (docs/notes/fewshot.md).
_UNTUNED_FEWSHOT: Values = {
    "optim.name": "adam",
    "optim.lr": 1e-3,
    "optim.weight_decay": 1e-6,
    "schedule.name": "step",
    "schedule.step_gamma": 0.5,
    "schedule.step_every_frac": 0.2,
    "aug.policy": "none",
    "head.distance": "cosine",
    "head.scale": 10.0,
}

# For 360 steps on letters, found on other letters than those on which its study tests
# (benchmarks/fewshot_default.py, docs/notes/fewshot.md): a rate at which a small network learns in
# that time, larger logits, whole letters, and all the episodes that a step's images allow.
_FEWSHOT_LETTERS: Values = {
    "optim.name": "adamw",
    "optim.lr": 1e-2,
    "optim.weight_decay": 0.05,
    "schedule.name": "warmup_cosine",
    "schedule.warmup_frac": 0.1,
    "head.scale": 30.0,
    "episode.every_support": True,
    "aug.crop_scale_min": 1.0,
}

FEWSHOT: Presets = {
    "tiny": _UNTUNED_FEWSHOT
    | _FEWSHOT_LETTERS
    | TINY
    | _LAYOUT
    | {
        "aug.rotate": 0.0,
        "episode.way": 20,
        "episode.query": 5,
        "val.query": 8,  # letters have 18 images, so 10 support images leave 8
        "train.epochs": 12,
        "train.epoch_images": 3600,
        "train.batch_size": 120,
    },
    "full": _UNTUNED_FEWSHOT
    | {
        "data.image_size": 84,
        "train.numerics": "auto",
        "backbone.name": "conv4",
        "backbone.width": 64,
        "backbone.pool": 5,
        "episode.way": 20,
        "episode.query": 15,
        "aug.crop_scale_min": 0.8,
        "aug.hflip": 0.5,
        "aug.strength": 1.0,
        "train.epochs": 100,
        "train.batch_size": 320,
    },
}

# Segmentation: the polynomial schedule of DeepLab (Chen et al. 2017, section 4.1), plain
# cross-entropy, and all eight orientations of an aerial image, none of which is upright.
_UNTUNED_SEGMENT: Values = {
    "schedule.name": "polynomial",
    "schedule.power": 0.9,
    "aug.hflip": 0.5,
    "aug.vflip": 0.5,
    "aug.rot90": 0.75,
}

SEGMENT: Presets = {
    "tiny": TINY
    | _UNTUNED_SEGMENT
    | {
        "data.name": "earth",
        "data.image_size": 64,
        "optim.name": "adam",
        "optim.lr": 3e-3,
        "optim.weight_decay": 1e-6,
        # two of six climates cover less than a twelfth of the pixels each, but mIoU weights all
        # classes equally
        "loss.name": "weighted_ce",
        "train.epochs": 36,
        "train.epoch_images": 640,
        "train.batch_size": 16,
    },
    "full": _UNTUNED_SEGMENT
    | {
        "data.image_size": 512,
        "model.name": "deeplabv3-resnet50",
        "train.numerics": "auto",
        "optim.name": "sgd",
        "optim.lr": 0.01,
        "optim.weight_decay": 1e-4,
        "train.epochs": 50,
        "train.batch_size": 8,
    },
}
