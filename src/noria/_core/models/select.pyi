from noria._core.contract import Model

class Select(Model):
    def __init__(self) -> None: ...
