#include "server/core/core.h"
#include "server/rpc/dispatch.h"
#include "server/raft/group.h"
#include "server/raft/wio.h"
