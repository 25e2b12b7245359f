from noria._core.contract import Target

class Handle(Target):
    cancelled: bool
    def cancel(self) -> None: ...

class Timer(Handle):
    def when(self) -> float: ...
