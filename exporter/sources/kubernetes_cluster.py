"""Where the API server is and how it wants to be asked, for lightkube: the pod's service account, or a kubeconfig.

May not be in here: what it is asked.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from exporter.core.model_engines import Access
from exporter.kit.config import ConfigError, shown

if TYPE_CHECKING:
    from lightkube.config.kubeconfig import SingleConfig

#: Where Kubernetes mounts what a pod's service account needs. The token is written anew every hour or so.
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


class Cluster(Struct, frozen=True):
    """An API server. url: without a slash at its end. server_name: whom its certificate names; "" is the URL's host."""

    url: str
    config: "SingleConfig"
    server_name: str = ""


def service_account(folder: str = ACCOUNT) -> Access:
    """The files need not be there: who asks with them is told by the one that is not."""
    return Access(ca_file=f"{folder}/ca.crt", token_file=f"{folder}/token")


def in_cluster(environ: Mapping[str, str], folder: str = ACCOUNT) -> Cluster:
    """Raises ConfigError where this program does not run in a pod."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port.isdecimal():
        raise ConfigError(
            "option kubernetes.pods: api: this program runs in no pod (no KUBERNETES_SERVICE_HOST in the environment); "
            "name a kubeconfig with --kubernetes.config"
        )
    account = service_account(folder)
    url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    return server(url, account.ca_file, account.token_file)


def server(url: str, ca_file: str | None = None, token_file: str | None = None) -> Cluster:
    """The files are read when it is asked. lightkube's from_service_account reads them at once and the environment."""
    from lightkube.config import models  # noqa: PLC0415 -- lightkube is 7 MB of RSS
    from lightkube.config.kubeconfig import PROXY_CONF  # noqa: PLC0415 -- likewise

    asked = models.Cluster(server=url, certificate_auth=ca_file)
    return Cluster(url, PROXY_CONF._replace(cluster=asked, user=models.User(token_file=token_file)))


def kubeconfig(path: str) -> Cluster:
    """The current context's cluster and user. It is read once. Raises ConfigError naming the file, the key and the fix.

    Programs that make tokens (exec, auth-provider) are not run: this program runs none.
    """
    from lightkube.config.kubeconfig import KubeConfig  # noqa: PLC0415 -- lightkube is 7 MB of RSS
    from lightkube.config.models import User  # noqa: PLC0415 -- likewise
    from lightkube.core.exceptions import ConfigError as LightkubeError  # noqa: PLC0415 -- likewise

    from exporter.kit import yaml_file  # noqa: PLC0415 -- PyYAML is 3 MB of RSS

    content = yaml_file.load(path, "kubernetes.config", "a kubeconfig")
    if not isinstance(content, dict):
        raise ConfigError(f"file {path}: holds no kubeconfig; write a kubeconfig")
    # kubectl writes null for an empty list.
    content |= {key: content.get(key) or [] for key in ("clusters", "contexts", "users")}
    try:
        config = KubeConfig.from_dict(content, path).get()
        assert config is not None  # noqa: S101 -- for the type checker: without a default it is one or an error
        user = config.user or User()
        if user.token_file:
            user.token_file = str(config.abs_file(user.token_file))  # lightkube looks in the working directory
        names = [each["cluster"] for each in content["clusters"] if each["name"] == config.context.cluster]
    except KeyError as error:
        raise ConfigError(f"file {path}: has no entry or key {error}; {_FIX}") from None
    except (LightkubeError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"file {path}: {' '.join(str(error).split())}; {_FIX}") from None
    for key, given in (("exec", user.exec), ("auth-provider", user.auth_provider), ("username", user.username)):
        if given:
            raise ConfigError(
                f"file {path}: key {key}: is not supported; give the user a token, a tokenFile or a client certificate"
            )
    url = config.cluster.server.rstrip("/")
    if not url.startswith(("https://", "http://")):
        raise ConfigError(f"file {path}: key server: {shown(url)} is no URL; write https://host:port")
    if url.startswith("http://") and (user.token or user.token_file):
        raise ConfigError(f"file {path}: key server: a token is not sent over plain http; write https://host:port")
    return Cluster(url, config._replace(user=user), _text(names[-1].get("tls-server-name")))


_FIX = "set current-context to one that is complete: a context with a cluster and a user, each with an entry"


def _text(value: Any) -> str:
    """lightkube does not know the key."""
    return value if isinstance(value, str) else ""
