"""Trains the official network by the official recipe, with PyTorch, NumPy and PIL alone.

python -m reference.train --config configs/FILE.yaml [--section.key value ...]

reads the configuration of train.py (arrays in memory: `data.name` digits or npz), follows the
official code's loop, and prints its last line: the accuracy that ours is to be compared with.
Averages of the weights, accumulation and resume are left out.
"""

import os
import sys
import time

os.environ["KERAS_BACKEND"] = "torch"

import numpy as np  # noqa: E402 - the backend first
import torch  # noqa: E402

from keras_smlp.data import sources  # noqa: E402
from keras_smlp.data.order import epoch_order  # noqa: E402
from keras_smlp.training.optimizer import learning_rates  # noqa: E402
from keras_smlp.training.parsing import parse  # noqa: E402
from reference import images  # noqa: E402
from reference.network import OfficialSMLPNet  # noqa: E402


class Images(torch.utils.data.Dataset):
    """The training images at the places of one epoch; a worker's draws depend on the place."""

    def __init__(self, split, order, seed, size, recipe):
        self.split, self.order, self.seed = split, order, seed
        self.size, self.recipe = size, recipe

    def __len__(self):
        return len(self.order)

    def __getitem__(self, place):
        [content], [label], _ = self.split.read(self.order[place : place + 1])
        rng = np.random.default_rng((*self.seed, place))
        return images.training_view(content, rng, self.size, self.recipe), int(label)


def batches(split, config, epoch, classes):
    """The batches of an epoch: normalized images (n, 3, size, size) and targets."""
    recipe, train = config.data, config.train
    group = recipe.group_size
    order = epoch_order(len(split), train.seed, epoch, train.batch_size, group, recipe.repeats)
    dataset = Images(split, order, (train.seed, epoch), config.model.input_size, recipe)
    rng = np.random.default_rng((train.seed, epoch))
    loader = torch.utils.data.DataLoader(dataset, train.batch_size, num_workers=2)
    for x, labels in loader:
        x, targets = x.numpy(), images.smooth_targets(labels, classes, recipe.label_smoothing)
        parts = [slice(i, i + group) for i in range(0, len(x), group)]
        mixed = [images.mixed(x[part], targets[part], rng, recipe) for part in parts]
        x, targets = (
            torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*mixed, strict=True)
        )
        yield x.permute(0, 3, 1, 2), targets


@torch.no_grad()
def evaluate(model, split, size, resize_size):
    """Accuracies in percent and the loss over the validation images."""
    model.eval()
    totals = np.zeros(3)
    for i in range(0, len(split), 256):
        contents, labels, _ = split.read(np.arange(i, min(i + 256, len(split))))
        views = [images.evaluation_view(content, size, resize_size) for content in contents]
        x = torch.from_numpy(np.stack([images.normalized(view) for view in views]))
        logits, labels = model(x.permute(0, 3, 1, 2)), torch.from_numpy(labels).long()
        hits = logits.topk(5).indices == labels[:, None]
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        totals += (hits[:, 0].sum(), hits.any(dim=1).sum(), loss)
    top1, top5, loss = totals / len(split)
    return 100 * top1, 100 * top5, loss


def main(argv):
    config = parse(argv)
    source = sources.load(config.data.name, config.data.dir)
    classes, size = len(source.class_names), config.model.input_size
    torch.manual_seed(config.train.seed)
    architecture = {"expansion": config.model.expansion, "patch_size": config.model.patch_size}
    architecture |= config.model.architecture()
    architecture["drop_path_rate"] = architecture["drop_path_rate"] or 0.0
    model = OfficialSMLPNet(size=size, classes=classes, **architecture)
    decay = {True: config.optimizer.weight_decay, False: 0.0}
    parameters = {True: [], False: []}
    for name, parameter in model.named_parameters():
        parameters[parameter.ndim > 1 and not name.endswith("bias")].append(parameter)
    groups = [{"params": parameters[kind], "weight_decay": decay[kind]} for kind in parameters]
    optimizer = torch.optim.AdamW(groups, eps=1e-8)
    epochs, steps = config.train.epochs, len(source.train) // config.train.batch_size
    best = (-1.0, 0.0, 0.0)
    for epoch in range(epochs):
        model.train()
        began, total = time.perf_counter(), 0.0
        for step, (x, targets) in enumerate(batches(source.train, config, epoch, classes)):
            when = epoch if config.optimizer.schedule == "epoch" else epoch + step / steps
            for group in optimizer.param_groups:
                group["lr"] = float(learning_rates(config, when))
            loss = -(targets * model(x).log_softmax(dim=-1)).sum(dim=-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        speed = steps * config.train.batch_size / (time.perf_counter() - began)
        score = evaluate(model, source.validation, size, config.data.shorter_side(size))
        best = max(best, score)
        print(
            f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}, val_accuracy "
            f"{score[0] / 100:.4f}, {speed:.0f} images/s",
            flush=True,
        )
    print("* Acc@1 {:.3f} Acc@5 {:.3f} loss {:.3f}".format(*best))


if __name__ == "__main__":
    main(sys.argv[1:])
