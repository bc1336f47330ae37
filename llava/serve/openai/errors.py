"""Refusals in the OpenAI API's shape."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """A request that is not answered: HTTP status, message, and what else the OpenAI API says.

    param: the field that is wrong. code: a word for programs, such as ``model_not_found``.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def body(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
