-- ARGV: prefix, now, how many, hidden until, receives until it is given up (0: never), prefix of the lane that it moves to then, how many may
-- move. Answers the time at which the first message becomes visible, if none was received, then id, receives, time of sending and body
-- of each.
local now, max, until_, limit, other = ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]), ARGV[6]
local received, count, moved = {}, 0, 0
while count < max and moved < tonumber(ARGV[7]) do
  local wanted = max - count
  local ids = redis.call('ZRANGE', p .. 'visible', '-inf', now, 'BYSCORE', 'LIMIT', 0, wanted)
  for _, id in ipairs(ids) do
    local receives, sent_at = read_meta(id)
    local body = redis.call('HGET', p .. 'body', id)
    if not receives or not body then
      -- Not a message of ours.
      forget(id)
    elseif limit > 0 and tonumber(receives) >= limit then
      forget(id)
      redis.call('HSET', other .. 'body', id, body)
      redis.call('HSET', other .. 'meta', id, '0 ' .. sent_at .. ' 0')
      redis.call('ZADD', other .. 'visible', now, id)
      moved = moved + 1
    else
      receives = string.format('%.0f', tonumber(receives) + 1)
      redis.call('ZADD', p .. 'visible', until_, id)
      redis.call('ZADD', p .. 'held', until_, id)
      redis.call('HSET', p .. 'meta', id, receives .. ' ' .. sent_at .. ' 1')
      count = count + 1
      received[count] = { id, receives, sent_at, body }
    end
  end
  -- Without a visibility timeout, what was taken is still visible; it is not taken twice.
  if #ids < wanted or tonumber(until_) <= tonumber(now) then break end
end
if count > 0 then return { '', received } end
local first = redis.call('ZRANGE', p .. 'visible', 0, 0, 'WITHSCORES')
return { first[2] or "", received }
