-- Removes a dead process after its recovery.
local latest = redis.call('ZSCORE', processes, ARGV[1])
if latest and now - tonumber(latest) >= tonumber(ARGV[2]) then
  redis.call('ZREM', processes, ARGV[1])
end
redis.call('ZREM', takers, ARGV[1])
