#include "server/audit/audit.h"
