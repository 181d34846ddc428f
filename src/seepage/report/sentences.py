"""A sentence for every client, defense, attack, and part of an attack."""

from collections.abc import Callable, Mapping

Settings = Mapping[str, str]

STATISTICS = "It shares the statistics of its normalisation layers too."


def _fedsgd(s: Settings) -> str:
    shared = f" {STATISTICS}" if "mode" in s else ""
    return f"It computes one gradient of the loss over its whole batch.{shared}"


def _fedavg(s: Settings) -> str:
    epochs, size = s.get("epochs", "1"), s.get("batch_size")
    times = "once" if epochs == "1" else f"{epochs} times"
    parts = f", in minibatches of {size}" if size else ""
    return (
        f"It trains locally: it goes through its batch {times}{parts}, with learning rate "
        f"{s.get('lr', '0.01')}, and shares how far the parameters moved."
    )


def _noise(s: Settings) -> str:
    kind = "Laplace" if "laplace" in s.get("kind", "") else "Gaussian"
    unit = " times the typical size of an entry" if s.get("relative") == "True" else ""
    return f"It adds {kind} noise to every entry, with standard deviation {s.get('std')}{unit}."


def _prune(s: Settings) -> str:
    ratio = _percent(s.get("ratio", "0.9"))
    scope = "all tensors together" if "global" in s.get("scope", "") else "each tensor"
    return f"It sets the {ratio} smallest entries of {scope} to zero."


def _secure_sum(s: Settings) -> str:
    return f"The server sees only the sum over {s.get('users')} users (secure aggregation)."


def _only(s: Settings) -> str:
    pattern = s.get("pattern", "").strip("'\"")
    if pattern.startswith("!"):
        return f"It keeps back the tensors whose names match {pattern[1:]}."
    return f"It shares only the tensors whose names match {pattern}."


def _dpsgd(s: Settings) -> str:
    rate = s.get("rate", "None")
    drawn = "" if rate == "None" else f"It draws each example with a chance of {rate}. "
    return (
        f"{drawn}It clips the gradient of every example to length {s.get('norm')} and adds "
        f"Gaussian noise of {s.get('multiplier')} times that length to their sum (DP-SGD)."
    )


def _quantize(s: Settings) -> str:
    return f"It rounds every entry to {s.get('bits', '8')} bits."


def _dropout(s: Settings) -> str:
    what = "entries of the update" if "entries" in s.get("at", "") else "units of the network"
    return f"It drops a random share of the {what}, keeping {_percent(s.get('keep', ''))}."


def _soteria(s: Settings) -> str:
    layer = s.get("layer", "None").strip("'\"")
    named = "one fully connected layer" if layer == "None" else f"layer {layer}"
    share = _percent(s.get("share", "0.2"))
    return f"It zeroes the {share} of the gradient of {named} that tell most about the input."


def _mixup(s: Settings) -> str:
    return f"It trains on weighted mixtures of {s.get('k', '2')} examples."


def _instahide(s: Settings) -> str:
    k = s.get("k", "4")
    return f"It trains on mixtures of {k} examples whose pixels' signs are flipped at random."


def _percentile(s: Settings) -> str:
    ratio = s.get("percentile", "10.0")
    limit = s.get("gamma", "0.01")
    return f"It drops the smallest {ratio} % of all entries and cuts the rest off at {limit}."


def _svt(s: Settings) -> str:
    share = _percent(s.get("fraction", "0.1"))
    return (
        f"It shares {share} of the entries, with noise, chosen among those whose noisy size "
        "passes a threshold (sparse vector technique)."
    )


def _precode(_: Settings) -> str:
    return "Its network has a random bottleneck, which samples its features anew in each pass."


def _percent(text: str) -> str:
    try:
        return f"{100 * float(text):g} %"
    except ValueError:
        return text


CLIENTS: dict[str, Callable[[Settings], str]] = {
    "FedSGD": _fedsgd,
    "FedAvg": _fedavg,
    "SecureSum": _secure_sum,
    "Only": _only,
    "Noise": _noise,
    "Prune": _prune,
    "DPSGD": _dpsgd,
    "Quantize": _quantize,
    "Dropout": _dropout,
    "Soteria": _soteria,
    "MixUp": _mixup,
    "InstaHide": _instahide,
    "Percentile": _percentile,
    "SVT": _svt,
    "Precode": _precode,
    "PRECODE": _precode,
}
STEPS = {
    "Given": "Its update was captured beforehand, and is replayed as it is.",
    "Clip": "It shortens the whole update to length {norm} if it is longer.",
    "Sign": "It shares only the sign of every entry.",
    "Guarded": "It inspects the model first, and refuses one that looks manipulated.",
}
ATTACKS = {
    "BiasRatio": "Divides the weight gradient of a linear layer by its bias gradient, which gives "
    "the layer's input exactly where one example dominates a row. No search is needed.",
    "Invert": "Searches for examples whose simulated update matches the observed one, step by "
    "step from a start of its own.",
    "Restarts": "Tries several starts and keeps the answer that it believes in most.",
    "Group": "Runs several searches side by side and pulls each towards their mean.",
    "Imprint": "Sends a model with a planted layer whose rows sort examples into bins, and reads "
    "each bin that caught one example from the update.",
    "SparseImprint": "Sends a model with a planted layer of bins that survives local training.",
    "OneShot": "Sends a model with a planted layer tuned to isolate one example.",
    "Counted": "Sends a model with planted bins that also count the examples in each.",
    "Trap": "Sends a model whose first layer lets only few examples through each row.",
    "RGap": "Solves for the input of each layer, from the last layer to the first, with linear "
    "equations that the gradient and the layer's output give.",
    "Moments": "Reads the examples of a two-layer network from moments of its weights, weighted "
    "by the output layer's gradient.",
    "Span": "Finds the inputs in the space that the rows of the gradient span, and certifies them "
    "by what they leave unexplained.",
    "EmbeddingRows": "Reads the words that were used from the embedding's rows that moved.",
    "TokenSpan": "Tests for each word whether it lies in the span of the attention's gradient.",
    "StateSearch": "Searches for sentences whose state lies where the pooler's gradient says.",
    "Pooler": "Sends a model with a widened pooler, and reads sentences' states from it.",
    "Adaptive": "Tries every way that is known of attacking through this defense.",
    "Unmix": "Solves for mixtures and for the shares in which they were mixed, and undoes them.",
    "Coded": "Reads what a random bottleneck encodes, and searches for the input that gives it.",
    "EitherMode": "Searches in train and in eval mode, and keeps the one that explains the update.",
    "Lamp": "Searches for sentences whose update matches, helped by a language model.",
    # The parts of a search.
    "Anatomy": "It is told where the language model keeps its tables and projections.",
    "Bigram": "It prefers pairs of words that public text has.",
    "Descent": "It steps through embeddings by descent.",
    "Box": "It asks only that the update could have come from the candidate's.",
    "Support": "It compares only the entries that the defense left.",
    "Signs": "It compares only signs.",
    "Likelihood": "It weighs the noise that the client is known to add.",
    "NormalPrior": "It prefers what is likely under a normal law of public data.",
    "ClassMean": "It starts from the mean of public examples of the label.",
    "SameClass": "It starts from a public example of the label.",
    "Adam": "It steps by Adam.",
    "LBFGS": "It steps by a quasi-Newton method.",
    "LM": "It steps by Levenberg and Marquardt's method, which is exact on smooth networks.",
    "Cosine": "It compares the directions of the updates.",
    "L2": "It compares updates by their squared distance.",
    "TAG": "It compares updates with the first layers weighing most.",
    "TV": "It prefers smooth pictures.",
    "L2Prior": "It prefers values near the middle.",
    "BatchStats": "It prefers batches with the statistics that the normalisation layers know.",
    "Features": "It prefers examples whose features are those that the last layer shows.",
    "Recovered": "It prefers examples whose features are those that Span recovered.",
    "DeepImage": "It searches among the pictures that an untrained generator makes.",
    "Learned": "It searches among the pictures that a trained generator makes.",
    "Normal": "It starts from noise.",
    "Uniform": "It starts from even noise.",
    "Small": "It starts from faint noise.",
    "Gray": "It starts from grey.",
    "Pattern": "It starts from a repeated patch of noise.",
    "StartFrom": "It starts from given inputs.",
    "Told": "It is told the labels.",
    "Joint": "It searches for the labels too.",
    "Chance": "It guesses the labels.",
    "IDLG": "It reads the label off the last layer's signs.",
    "Yin": "It reads labels off the most negative rows of the last layer.",
    "Impact": "It reads labels off the last layer, the strongest again and again.",
    "Counts": "It reads from the last layer how often each label occurs.",
}
EXPLAINED = frozenset(CLIENTS) | frozenset(STEPS) | frozenset(ATTACKS)
