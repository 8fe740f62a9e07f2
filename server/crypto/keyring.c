#include "server/crypto/keyring.h"
