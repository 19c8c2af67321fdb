"""Your own images: a folder with one folder a class (or train/ and test/ of such), or an .npz file; a small ResNet.

    python -m mbjax.main --config=configs/images.py --config.data.path=my_images
    python -m mbjax.main --config=configs/images.py:erm --config.data.path=my_images
    python -m mbjax.main --config=configs/images.py:few --config.data.path=my_images

The second trains plainly, to compare with (`python -m mbjax.report RUN_FOLDER …`). The third is for few images of a
class (docs/few-images.md): balanced batches, behind a scattering transform. Hardware: any; a GPU for images larger than
32×32 or a larger network. Result, of 265 images of 240 to 768 pixels and three classes (200, 50 and 15) on two cores
(`benchmarks/image_folder.py`, 3 seeds): balanced accuracy 0.719 ± 0.030 in 108 s, the second 0.652 ± 0.036 in 73 s, the
third 0.754 ± 0.014 in 55 s beside other work, compilation and page included.
"""

from ml_collections import ConfigDict

from mbjax import config as base


def get_config(method: str = "metabalance") -> ConfigDict:
    _, name = base.parse_name(method, file="configs/images.py", rows=("few",))
    method = "erm" if name == "few" else name
    config = base.base()
    config.task = "images"
    config.method = method
    config.data.update(
        size=32,
        test_share=0.2,
        validation_share=0.0,
        imbalance="none",
        majority_class=0,
        counts=(),
        ratio=100.0,
        minority_counts=(5, 50),
        first=False,
    )
    base.change(config, {"model.name": "resnet18", "model.width": 16, "model.stages": (1, 1, 1)})
    config.support.update(sampler="natural", batch_size=20)
    config.query.update(sampler="class_balanced", batch_size=30)
    config.support.augment = config.query.augment = config.train.augment = "crop_flip"
    config.meta.steps = 8
    config.updates_per_call = 10
    config.optimizer.lr = 0.05
    config.optimizer.schedule = "cosine"
    config.updates = 120  # of 8 · (20 + 30) images; plain training reads as many, 2,000 · 24
    if method == "erm":
        config.updates = 2000
    if name == "few":
        config.model = ConfigDict({"name": "scattering", "blocks": 0, "whiten": 256, "patches": 256})
        config.model.update(symmetric=True, head="linear")
        config.loss.update(name="logit_adjustment", tau=0.1)
        config.train.update(sampler="class_balanced", batch_size=30, augment="none")
        config.optimizer.update(lr=0.1, weight_decay=0.08)
    return config
