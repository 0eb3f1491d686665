# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Masks for my images
#
# You have photographs and, for each, the list of classes it shows. At the end of this page each has a mask. If your
# classes are among cat, cow, dog, horse, person and sheep, the networks that come along do it, and nothing is
# trained; for other classes two trainings are added, which [Masks for your images](../masks_for_your_images.md)
# shows.
#
# This is a notebook, kept as text in `docs/notebooks/masks_for_my_images.py`; the pictures were made by running it.
# It takes a minute, without a network and without a GPU.
#
# ## The photographs and their labels
#
# A folder with `images/` and a `labels.csv` is a data set. Two photographs of scikit-image stand for yours.

# %%
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from skimage import data

here = Path.cwd()
root = next(folder for folder in (here, *here.parents) if (folder / "demo/checkpoints").is_dir())
checkpoints = root / "demo/checkpoints"

work = Path(tempfile.mkdtemp())
(work / "my_data/images").mkdir(parents=True)
(work / "my_data/labels.csv").write_text("image,classes\nchelsea.png,cat\nastronaut.png,person\n")
(work / "my_data.yaml").write_text("name: mine\nlayout: folder\nroot: my_data\nclasses: [cat, dog, person]\n")
Image.fromarray(data.chelsea()).save(work / "my_data/images/chelsea.png")
Image.fromarray(data.astronaut()).save(work / "my_data/images/astronaut.png")


# %% [markdown]
# The commands below are those of a terminal; in Jupyter `!wsss data-check ...` is shorter.


# %%
def terminal(line):
    """Run a command of the toolkit in the folder of this example, and print what it says."""
    command, *options = line.format(checkpoints=checkpoints).split()
    done = subprocess.run(
        [Path(sys.executable).with_name(command), *options], cwd=work, check=True, stdout=subprocess.PIPE, text=True
    )
    print(done.stdout)


terminal("wsss data-check --data my_data.yaml")

# %% [markdown]
# ## Seeds: where is the evidence for each label?
#
# The classifier's decision for each label is explained, at three sizes and for the mirror image, and the explanation
# walks over the transformer's attention. The result is the run `lrp_vit`. (Double precision is the default and takes
# twice as long.)

# %%
terminal(
    "vitseg seeds --data my_data.yaml --split all --classifier {checkpoints}/classifier.safetensors --precision float32"
)

# %% [markdown]
# A seed is an `.npz`: scores from 0 to 1 of each labelled class on a coarse grid.

# %%
import numpy as np

import vitseg
from wsss.store import read_seed

photograph = Image.open(work / "my_data/images/chelsea.png")
seed = read_seed(work / "runs/lrp_vit/seeds", "chelsea")
print(seed.scores.shape, seed.scores.min(), seed.scores.max())
vitseg.overlay(photograph, seed.scores[0].astype(np.float32))

# %% [markdown]
# ## Masks: the seeds walk to the borders
#
# An affinity network says which neighbouring pixels belong together, the seeds walk at random along that, and a dense
# CRF draws the last line.

# %%
terminal(
    "affinity refine --data my_data.yaml --split all --seeds lrp_vit --network {checkpoints}/affinity.safetensors --crf"
)

# %%
from cnnseg import Segmentation
from wsss.store import read_mask


def outlined(name):
    """The photograph under its mask."""
    mask = Segmentation(read_mask(work / "runs/lrp_vit/masks", name), ("cat", "dog", "person"))
    return mask.overlay(Image.open(work / f"my_data/images/{name}.png"))


outlined("chelsea")

# %%
outlined("astronaut")

# %% [markdown]
# The masks themselves are palette PNGs in `runs/lrp_vit/masks`: 0 is background, 1 the first class, and so on.
#
# ## Photographs that nobody has labelled
#
# A network that has learnt such masks needs no labels. Nobody tells it here what the photograph shows:

# %%
import cnnseg

network = cnnseg.load_network(checkpoints / "segmentation.safetensors")
unseen = cnnseg.segment(network, photograph)
print({name: round(share, 2) for name, share in unseen.shares.items() if share > 0.01})
unseen.overlay(photograph)

# %% [markdown]
# ## What was made of what
#
# Every result knows its inputs by content. If a photograph or a label changes, `wsss status` says what is stale, and
# the same command makes it again.

# %%
terminal("wsss status lrp_vit --data my_data.yaml")

# %% [markdown]
# ## On from here
#
# - [The same by commands, with the trainings](../masks_for_your_images.md) for classes of your own.
# - If you have masks of some images, `wsss evaluate` scores every stage and `wsss compare` makes a page of it.
# - [What raised seeds and masks](../better_masks.md), [networks to train on the masks](../segmentation_networks.md).
