#include "server/raft/group.h"
#include "client/internal.h"
