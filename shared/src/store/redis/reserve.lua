-- Reserves an idempotency key. Returns the reservation that exists, 'full', or nothing if it
-- reserved the key.
-- KEYS: the reservation.
-- ARGV: JSON, expires_at, now, milliseconds until the key expires, whether memory is nearly full.
local found = redis.call('HMGET', KEYS[1], 'j', 'x')
if found[1] and tonumber(found[2]) > tonumber(ARGV[3]) then return found[1] end
if ARGV[5] == '1' then return 'full' end
redis.call('HSET', KEYS[1], 'j', ARGV[1], 'x', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return false
