#include "common/net/net.h"
#include "rpc.pb-c.h"
#include "record.pb-c.h"
#include "server/raft/group.h"
