-- Makes the messages of a dead process visible. Its receipts stay valid until another process
-- receives the messages. ARGV: now, process name. Returns the number of messages.
local released = 0
local all = redis.call('HGETALL', holder)
for at = 1, #all, 2 do
  local id = all[at]
  local name, receives = string.match(all[at + 1], '^(%d+) (%d+)$')
  if name == ARGV[2] then
    local visible_at = redis.call('ZSCORE', visible, id)
    if visible_at and tonumber(visible_at) > tonumber(ARGV[1]) and holds(id, receives) then
      redis.call('ZADD', visible, ARGV[1], id)
      redis.call('ZADD', held, ARGV[1], id)
      released = released + 1
    end
    redis.call('HDEL', holder, id)
  end
end
return released
