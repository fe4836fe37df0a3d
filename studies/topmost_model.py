"""A topic model by TopMost's ECRTM, for topic_models.py: beta.npy and theta_test.npy in a folder.

Runs in an environment with torch, topmost and scipy, without this package. The statements are those of
TopMost's BasicTrainer with its StepLR schedule.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(find_spec("topmost").origin).parent / "models" / "basic"))
from ECRTM.ECRTM import ECRTM


def dense(path):
    return torch.from_numpy(scipy.sparse.load_npz(path).toarray()).float()


def main():
    given = json.loads(sys.argv[1])
    corpus, output, seed, epochs, size, rate, halve = (
        given.pop(name)
        for name in ("corpus", "output", "seed", "epochs", "batch_size", "learning_rate", "halve_epochs")
    )
    torch.manual_seed(seed)
    bags = dense(Path(corpus) / "train_bow.npz")
    model = ECRTM(bags.shape[1], **given)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=halve, gamma=0.5)
    batches = DataLoader(bags, batch_size=size, shuffle=True)
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for batch in batches:
            loss = model(batch)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        schedule.step()
        print(f"epoch {epoch + 1}/{epochs}  loss {total / len(bags):.3f}", file=sys.stderr)
    model.eval()
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        np.save(output / "beta.npy", model.get_beta().numpy())
        np.save(output / "theta_test.npy", model.get_theta(dense(Path(corpus) / "test_bow.npz")).numpy())


if __name__ == "__main__":
    main()
