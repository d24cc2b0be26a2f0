// A test webhook.

const EXAMPLE = '{\n  "event": "test",\n  "message": "Hello from Posthaste"\n}';

const jsonFault = (text) => {
  try {
    JSON.parse(text);
    return '';
  } catch (error) {
    return `This is not JSON: ${error.message}`;
  }
};

function sendView() {
  const url = el('input', { id: 'url', type: 'url', required: true, placeholder: 'https://example.com/webhooks', autocomplete: 'off', spellcheck: 'false', 'aria-describedby': 'url-fault' });
  const payload = el('textarea', { id: 'payload', rows: 10, spellcheck: 'false', required: true, 'aria-describedby': 'payload-fault' });
  payload.value = EXAMPLE;
  const urlFault = el('p', { id: 'url-fault', class: 'fault', role: 'alert' });
  const payloadFault = el('p', { id: 'payload-fault', class: 'fault', role: 'alert' });
  const tell = (input, place, text) => {
    place.textContent = text;
    input.setAttribute('aria-invalid', text ? 'true' : 'false');
    if (text) input.focus();
  };
  const button = el('button', { class: 'main' }, 'Send');
  const form = el('form', { class: 'panel narrow', novalidate: true, 'aria-label': 'Test webhook' }, field('URL', url), urlFault, field('Payload, any JSON', payload), payloadFault, el('p', { class: 'buttons' }, button));
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (button.disabled) return;
    tell(payload, payloadFault, jsonFault(payload.value));
    tell(url, urlFault, url.value.trim() ? '' : 'Where shall it go?');
    if (urlFault.textContent || payloadFault.textContent) return;
    button.disabled = true;
    try {
      const accepted = await post(`test-webhook?${query({ webhook_url: url.value.trim() })}`, payload.value);
      say('Accepted');
      location.hash = `#/webhook/${encodeURIComponent(accepted.webhook_id)}`;
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      const aboutUrl = error.fields.find((fault) => fault.field === 'webhook_url');
      if (aboutUrl) tell(url, urlFault, `The URL ${aboutUrl.message}.`);
      else tell(payload, payloadFault, error.message);
    } finally {
      button.disabled = false;
    }
  });
  const told = el('p', { class: 'hint' }, 'It is signed, retried and kept as any other webhook. Its reference begins with TEST.');
  return { title: 'Send a test', root: [el('h1', { tabindex: -1 }, 'Send a test webhook'), told, form], refresh: async () => {}, everyMs: 60_000 };
}
