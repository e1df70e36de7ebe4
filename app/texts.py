"""The page's words, in the languages that it speaks."""

from collections.abc import Mapping

LANGUAGES = ("en", "zh-TW")

_TEXTS = {
    "title": ("Deploy a model to Ollama", "將模型部署到 Ollama"),
    "intro": (
        "A zip with a base model, a LoRA adapter, or both. Drop it anywhere on this page.",
        "zip 檔可含基礎模型、LoRA 轉接器，或兩者皆有。可拖放到本頁任何位置。",
    ),
    "zip": ("The zip", "zip 檔"),
    "name": ("Its name on Ollama", "在 Ollama 上的名稱"),
    "options": ("Options", "選項"),
    "from": ("Base model, for an adapter alone", "基礎模型（僅上傳轉接器時）"),
    "system": ("System text", "系統提示"),
    "template": ("Template (Go)", "範本（Go）"),
    "parameters": ("Parameters (a JSON object)", "參數（JSON 物件）"),
    "quantize": ("Quantise to", "量化為"),
    "unchanged": ("as it is", "不變"),
    "deploy": ("Deploy", "部署"),
    "cancel": ("Cancel", "取消"),
    "cancelled": ("Cancelled. Nothing was kept.", "已取消，未保留任何資料。"),
    "phase_upload": ("Upload", "上傳"),
    "phase_extract": ("Extract", "解壓縮"),
    "phase_push": ("Push", "傳送"),
    "phase_create": ("Create", "建立"),
    "left": ("left", "剩餘"),
    "lines": ("What the service said", "服務訊息"),
    "done": ("is on Ollama. Chat with it:", "已在 Ollama 上。開始對話："),
    "lost": ("The connection was lost.", "連線中斷。"),
    "models": ("Models", "模型"),
    "model": ("Model", "模型"),
    "kind": ("Kind", "種類"),
    "architecture": ("Architecture", "架構"),
    "quantization": ("Quantisation", "量化"),
    "size": ("Size", "大小"),
    "date": ("Date", "日期"),
    "create": ("Create", "建立"),
    "modelfile": ("Modelfile", "Modelfile"),
    "delete": ("Delete", "刪除"),
    "ask_name": ("The name on Ollama:", "在 Ollama 上的名稱："),
    "ask_delete": ("Type the model's name to delete it:", "輸入模型名稱以刪除："),
    "tasks": ("Recent tasks", "最近的工作"),
    "none": ("None yet.", "尚無。"),
    "ask_key": ("This service wants an API key:", "此服務需要 API 金鑰："),
    "holds": ("It holds", "內容"),
    "not_zip": ("This isn't a zip, or not a whole one.", "這不是完整的 zip 檔。"),
    "encrypted": (
        "It is encrypted. Zip it without a password.",
        "此檔已加密，請不設密碼重新壓縮。",
    ),
    "no_model": (
        "It holds no .gguf and no .safetensors file.",
        "其中沒有 .gguf 或 .safetensors 檔。",
    ),
    "back": ("Back to the page", "回到頁面"),
    "failed": ("It failed", "失敗"),
}


def texts(language: str | None) -> Mapping[str, str]:
    """Each text by its key, in one of LANGUAGES; in English for any other."""
    column = LANGUAGES.index(language) if language in LANGUAGES else 0
    return {key: words[column] for key, words in _TEXTS.items()}
