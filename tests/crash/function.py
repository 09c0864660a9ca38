"""A user's file with a study whose trials take milliseconds."""

FUNCTION = '''
"""A curve that its learning rate bends: saved and reported like a training."""

from vistune import function_experiment


def train(config, run):
    """Two epochs."""
    for epoch in run.epochs(2):
        worth = (1 - abs(config["lr"] - 0.3)) * (epoch + 1) / 2
        run.save(epoch=epoch, worth=worth)
        run.report(accuracy=worth)
    run.test(accuracy=worth)


EXPERIMENT = function_experiment(
    train, objective="accuracy", space={"lr": (0.01, 1.0, "log")}, default={"lr": 0.05}
)
'''
"""Content of the file."""
