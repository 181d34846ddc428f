"""What every test file shares: one thread, for the same bits on every machine."""

import torch

torch.set_num_threads(1)
