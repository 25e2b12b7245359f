from noria._core.contract import Model

class Blocking(Model):
    def __init__(self) -> None: ...
