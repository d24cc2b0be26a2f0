-- KEYS[2] the reservation. ARGV: prefix, now, JSON, expires_at. Answers what the key stands for already.
local found = redis.call('HMGET', KEYS[2], 'j', 'x')
if found[1] and tonumber(found[2]) > now then return found[1] end
redis.call('HSET', KEYS[2], 'j', ARGV[3], 'x', ARGV[4])
redis.call('PEXPIREAT', KEYS[2], string.format('%.0f', tonumber(ARGV[4]) + LINGER_MS))
return false
