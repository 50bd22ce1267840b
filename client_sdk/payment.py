"""The blind token of one request: taken from the wallet when a node asks for it, and kept for a second attempt."""

from ohttp.errors import TokenError
from ohttp.private_token import Token
from ohttp.token_policy import TokenPolicy
from ohttp.token_wallet import Wallet

from .errors import ClientError
from .exchange import InnerRequest

_HOW_TO_GET = "run 'cloister tokens get', then give the wallet (--wallet, or PrivateClient(wallet=...))"


class Payment:
    """What ``request`` costs at whichever node answers it. ``wallet`` is None where the user has none."""

    def __init__(self, wallet: Wallet | None, request: InnerRequest) -> None:
        self._wallet = wallet
        self._method, self._path = request.method, request.path.partition("?")[0]
        self._token: Token | None = None

    def token(self, policy: TokenPolicy | None, at: float) -> Token | None:
        """The token to send at ``at`` (POSIX seconds), None where the node asks for none.

        The second attempt of one request shows the same token: the node refused the first before it looked. Raises
        ClientError ``token_required`` without a wallet, ``tokens_empty``, ``wallet``.
        """
        if policy is None or not policy.costs(self._method, self._path):
            return None
        if self._wallet is None:
            raise ClientError("token_required", f"the node asks for a token of {policy.issuer}", _HOW_TO_GET)
        if self._token is None or not policy.takes(self._token, at):
            try:
                self._token = self._wallet.take(policy, at)
            except TokenError as error:
                code = "tokens_empty" if error.code == "empty" else "wallet"
                raise ClientError(code, error.detail, f"the node takes tokens of {policy.issuer}") from None
        return self._token
