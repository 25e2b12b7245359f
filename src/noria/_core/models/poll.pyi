from noria._core.contract import Model

class Poll(Model):
    def __init__(self) -> None: ...
