#include "server/raft/group.h"
