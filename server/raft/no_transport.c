#include "server/raft/no_transport.h"

#include <raft/uv.h>

static int no_init(struct raft_uv_transport *t, raft_id id, const char *address)
{
    (void)t;
    (void)id;
    (void)address;
    return 0;
}

static int no_listen(struct raft_uv_transport *t, raft_uv_accept_cb cb)
{
    (void)t;
    (void)cb;
    return 0;
}

static int no_connect(struct raft_uv_transport *t, struct raft_uv_connect *req, raft_id id,
                      const char *address, raft_uv_connect_cb cb)
{
    (void)t;
    (void)req;
    (void)id;
    (void)address;
    (void)cb;
    return RAFT_NOCONNECTION;
}

static void no_close(struct raft_uv_transport *t, raft_uv_transport_close_cb cb)
{
    cb(t);
}

void kl_no_transport(struct raft_uv_transport *transport)
{
    *transport = (struct raft_uv_transport){
        .version = 1,
        .init = no_init,
        .listen = no_listen,
        .connect = no_connect,
        .close = no_close,
    };
}
